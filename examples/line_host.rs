//! What workers print, seen over HTTP: by this program, by Python, and in a browser.
//!
//! `cargo run --features host --example line_host` starts a line service and three worker processes that write to it, reads it as a client, lets
//! Python read it where there is one (with the package `syncstream` if that is installed, else with its standard library), and ends.
//! `-- --serve SECONDS` goes on for that long, with workers that have always something to say: open the address that it prints.

use std::error::Error;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use syncq::host::{LineHostBuffer, LineHostMirror, LineHostReader};
use syncq::line::Mirror;

const PYTHON: &str = r#"
import sys
try:
    from syncstream import LineHostMirror, LineHostReader
    with LineHostMirror(sys.argv[1]):
        print("a line from Python's own mirror")
    items = LineHostReader(sys.argv[1]).read(3)
    how = "syncstream"
except ImportError:
    import json, urllib.request
    reply = urllib.request.urlopen(urllib.request.Request(sys.argv[1] + "?n=3", headers={"Accept": "application/json"}))
    items = json.load(reply)["data"]
    how = "urllib"
sys.stdout = sys.__stdout__
for item in items:
    print(f"  Python ({how}):", item if isinstance(item, str) else getattr(item, "data", item))
"#;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["worker", name, address, seconds] => work(name, address, Duration::from_secs_f64(seconds.parse()?)),
        [] => serve(None),
        ["--serve", seconds] => serve(Some(Duration::from_secs_f64(seconds.parse()?))),
        _ => Err("usage: line_host [--serve SECONDS]".into()),
    }
}

fn serve(longer: Option<Duration>) -> Result<(), Box<dyn Error>> {
    let buffer = LineHostBuffer::new("/sync-stream", 500)?;
    let service = buffer.serve("127.0.0.1:0")?;
    println!("lines are at {}", service.url());
    if let Some(longer) = longer {
        println!("open that in a browser; this ends after {longer:?}");
    }
    let seconds = longer.unwrap_or(Duration::from_millis(500)).as_secs_f64().to_string();
    let mut workers = Vec::new();
    for name in ["worker-1", "worker-2", "worker-3"] {
        workers.push(
            Command::new(std::env::current_exe()?)
                .args(["worker", name, service.url(), &seconds])
                .spawn()?,
        );
    }
    for mut worker in workers {
        if !worker.wait()?.success() {
            return Err("a worker has failed".into());
        }
    }

    let reader = LineHostReader::new(service.url())?;
    let items = reader.read(None)?;
    for item in items.iter().rev().take(6).rev() {
        let name = item.origin.as_ref().map_or("", |origin| origin.name.as_str());
        println!("  over HTTP: {name}: {}", item.printable());
    }
    let severe = items.iter().filter(|item| item.grouped().is_some()).count();
    println!("{} items in all, {severe} of them warnings and errors", items.len());
    if severe != 4 || items.len() < 20 {
        return Err(format!(
            "expected 4 warnings and errors among at least 20 items, found {severe} of {}",
            items.len()
        )
        .into());
    }

    let python = Command::new("python3")
        .args(["-c", PYTHON, service.url()])
        .stdin(Stdio::null())
        .status();
    match python {
        Ok(status) if status.success() => {}
        Ok(status) => return Err(format!("Python ended with {status}").into()),
        Err(error) => println!("no Python here: {error}"),
    }
    if !service.stop(Duration::from_secs(5)) {
        return Err("the service did not end in time".into());
    }
    Ok(())
}

/// A worker: writes lines, a warning, and at its end, if it is the third, why it failed.
fn work(name: &str, address: &str, long: Duration) -> Result<(), Box<dyn Error>> {
    let mut mirror = LineHostMirror::options().name(name).connect(address)?;
    let start = Instant::now();
    let mut step = 0;
    while step < 10 || start.elapsed() < long {
        step += 1;
        writeln!(
            mirror,
            "step {step}: {:.1} s since the start",
            start.elapsed().as_secs_f64()
        )?;
        if step == 5 {
            mirror.send_warning(&"the fifth step took\nlonger than the others")?;
        }
        std::thread::sleep(Duration::from_millis(if long > Duration::from_secs(2) {
            400
        } else {
            30
        }));
    }
    if name == "worker-3" {
        mirror.send_error(&"could not write the result\ncaused by: no space left")?;
    }
    // Says what became of the lines; a service that is away is an error here, and nowhere before.
    mirror.finish(Duration::from_secs(5))?;
    Ok(())
}
