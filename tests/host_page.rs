//! The page of a line service, in a real browser.
//!
//! A picture of it is left in the target folder, at `tmp/host_page.png`.

#![cfg(feature = "host")]

#[path = "support/browser.rs"]
mod browser;
#[path = "support/http.rs"]
mod http;
#[path = "support/python.rs"]
mod python;
mod support;

use browser::browser;
use std::path::Path;
use std::time::Duration;
use support::watchdog;
use syncq::host::{LineHostBuffer, LineHostMirror};
use syncq::line::{Level, Lines, Mirror, Record, Stream, Value};

#[test]
fn the_page_shows_lines_as_they_come_and_runs_nothing_that_is_in_them() {
    let Some(browser) = browser() else { return };
    let _watchdog = watchdog(Duration::from_secs(120));
    let buffer = LineHostBuffer::new("/sync-stream", 200).unwrap();
    let service = buffer.serve("127.0.0.1:0").unwrap();
    let mirror = LineHostMirror::options()
        .name("worker-1")
        .connect(service.url())
        .unwrap();
    mirror.write("before the page was there\n").unwrap();
    assert!(mirror.drain(Duration::from_secs(20)).unwrap());

    browser.open(service.url());
    browser.until("it is live", "document.querySelector('#state').className === 'live'");
    browser.until(
        "the first line is there",
        "document.querySelectorAll('#lines li').length === 1",
    );

    // What comes while it is open, hostile things among it.
    let hostile = [
        "<script>document.title = 'taken over'</script>",
        "<img src=x onerror=\"document.title = 'taken over'\">",
        "</script></style><svg onload=alert(1)>",
        "red \x1b[31malert\x1b[0m and \u{202e}backwards",
        "&lt;b&gt; &amp; \"quotes\" 'and' \\ backslashes",
    ];
    for line in hostile {
        mirror.write(format!("{line}\n")).unwrap();
    }
    mirror
        .write_bytes(Stream::Err, b"on standard error, not \xff UTF-8\n")
        .unwrap();
    mirror.send_warning(&"UserWarning: the disk is\nnearly full").unwrap();
    mirror
        .send_error(&"Traceback (most recent call last):\n  File \"w.py\", line 3\nTypeError: <b>boom</b>")
        .unwrap();
    let record = Record {
        level: Level::Warn,
        target: "pool::worker".into(),
        message: "slow step".into(),
        fields: vec![("seconds".into(), Value::Float(2.5))],
        spans: vec![],
        source: None,
    };
    mirror.send_record(&record).unwrap();
    for i in 0..20 {
        mirror.write(format!("step {i} of 20 is done\n")).unwrap();
    }
    let rows = "Array.from(document.querySelectorAll('#lines li'))";
    browser.until("all are there", &format!("{rows}.length === 30"));
    let texts = browser.script(&format!(
        "return {rows}.map(row => row.querySelector('.text').textContent)"
    ));
    assert_eq!(texts[1], hostile[0]);
    assert_eq!(texts[2], hostile[1]);
    assert_eq!(texts[3], hostile[2]);
    assert_eq!(texts[4], "red \\u{1b}[31malert\\u{1b}[0m and \\u{202e}backwards");
    assert_eq!(texts[5], hostile[4]);
    assert_eq!(texts[6], "on standard error, not \\xff UTF-8");
    assert_eq!(
        texts[8],
        "Traceback (most recent call last):\n  File \"w.py\", line 3\nTypeError: <b>boom</b>"
    );
    let kinds = browser.script(&format!("return {rows}.map(row => row.className)"));
    assert_eq!(
        (&kinds[0], &kinds[6], &kinds[7], &kinds[8], &kinds[9]),
        (
            &"".into(),
            &"err".into(),
            &"warning".into(),
            &"error".into(),
            &"warning".into()
        )
    );
    assert_eq!(browser.script("return document.title"), "Lines");
    let inside =
        browser.script("return document.querySelectorAll('#lines script, #lines img, #lines svg, #lines b').length");
    assert_eq!(inside, 0);
    assert_eq!(
        browser.script(&format!("return {rows}[0].querySelector('.who').textContent")),
        "worker-1"
    );

    // Nothing from elsewhere.
    let origins = browser.script("return performance.getEntriesByType('resource').map(e => new URL(e.name).origin)");
    let own = service.url().trim_end_matches("/sync-stream");
    assert!(
        origins.as_array().unwrap().iter().all(|origin| origin == own),
        "{origins}"
    );

    // Errors set apart, and searched.
    let visible = format!("{rows}.filter(row => !row.hidden)");
    browser.click("#only option[value=error]");
    browser.until(
        "errors only",
        &format!("{visible}.length === 1 && {visible}[0].className === 'error'"),
    );
    browser.click("#only option[value=warning]");
    browser.until("warnings too", &format!("{visible}.length === 3"));
    browser.click("#only option[value=all]");
    browser.type_into("#search", "STEP 7 of");
    browser.until(
        "one is found",
        &format!("{visible}.length === 1 && {visible}[0].querySelector('mark').textContent === 'step 7 of'"),
    );
    browser.clear("#search");
    browser.type_into("#search", "no such thing");
    browser.until(
        "none is found, and that is said",
        &format!("{visible}.length === 0 && !document.querySelector('#empty').hidden"),
    );
    browser.clear("#search");
    browser.script("document.querySelector('#search').dispatchEvent(new Event('input'))");
    browser.until("all again", &format!("{visible}.length === 30"));

    // A pause holds them back, and none is lost.
    browser.click("#pause");
    mirror.write("while it paused\n").unwrap();
    browser.until(
        "it waits",
        "document.querySelector('#shown').textContent.includes('1 more waiting')",
    );
    assert_eq!(browser.script(&format!("return {rows}.length")), 30);
    browser.screenshot(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("host_page.png"));
    browser.click("#pause");
    browser.until("it goes on", &format!("{rows}.length === 31"));

    // The service goes and comes back: the page goes on where it was.
    let address = service.address();
    assert!(service.stop(Duration::from_secs(20)));
    browser.until("it is said", "document.querySelector('#state').className === 'lost'");
    assert_eq!(
        browser
            .complaints()
            .into_iter()
            .filter(|c| !c.contains("net::ERR_"))
            .collect::<Vec<_>>(),
        [""; 0]
    );
    buffer.write("meanwhile\n").unwrap();
    let _service = buffer.serve(address).unwrap();
    browser.until(
        "it is live again",
        &format!("{rows}.length === 32 && {rows}[31].querySelector('.text').textContent === 'meanwhile'"),
    );
    buffer.clear().unwrap();
}

#[test]
fn with_a_token_the_page_asks_for_it() {
    let Some(browser) = browser() else { return };
    let _watchdog = watchdog(Duration::from_secs(120));
    let buffer = LineHostBuffer::options().token("open-sesame").build().unwrap();
    let service = buffer.serve("127.0.0.1:0").unwrap();
    buffer.write("private\n").unwrap();
    browser.open(service.url());
    browser.until("it asks", "!document.querySelector('#ask').hidden");
    assert_eq!(
        browser.script("return document.querySelectorAll('#lines li').length"),
        0
    );
    browser.type_into("#token", "wrong");
    browser.click("#ask button");
    browser.until(
        "it asks again",
        "!document.querySelector('#ask').hidden && document.querySelector('#token').value === ''",
    );
    browser.type_into("#token", "open-sesame");
    browser.click("#ask button");
    browser.until(
        "the lines are there",
        "document.querySelectorAll('#lines li').length === 1",
    );
    assert_eq!(browser.script("return document.querySelector('#ask').hidden"), true);
    // Or it is given behind the address, where it is not sent.
    browser.open("about:blank");
    browser.open(&format!("{}#token=open-sesame", service.url()));
    browser.until(
        "the lines are there",
        "document.querySelectorAll('#lines li').length === 1",
    );
}
