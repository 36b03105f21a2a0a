"use strict";
// The page of a line service: shows items as they come. All that comes from outside gets in as text nodes, never as HTML.
(() => {
  const MOST = 5000; // rows kept, and items kept while paused
  const at = (id) => document.getElementById(id);
  const list = at("lines"), state = at("state"), search = at("search"), pause = at("pause"), only = at("only");
  const ask = at("ask"), shown = at("shown"), empty = at("empty");
  let token = decodeURIComponent((/[#&]token=([^&]*)/.exec(location.hash) || ["", ""])[1]);
  let next = null, waiting = [], missed = 0, delay = 500;

  // What would steer a terminal, be invisible, or turn the direction of text round is shown as its code.
  const visible = (text) => text
    .replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g,
      (c) => "\\u{" + c.charCodeAt(0).toString(16) + "}")
    // Bytes that are not UTF-8 come as lone surrogates.
    .replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, (c) => {
      const unit = c.charCodeAt(0);
      return unit >= 0xdc80 && unit <= 0xdcff ? "\\x" + (unit - 0xdc00).toString(16) : "\\u{" + unit.toString(16) + "}";
    });

  const classOf = (item) => {
    switch (item.kind) {
      case "warning": case "error": return item.kind;
      case "lost": return "error";
      case "dropped": return "note";
      case "record": return item.level === "ERROR" ? "error" : item.level === "WARN" ? "warning" : "";
      default: return item.stream === "err" ? "err" : "";
    }
  };

  const element = (name, kind, text) => {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const match = (row) => {
    const wanted = search.value.toLowerCase(), text = row.item;
    const found = wanted === "" ? 0 : text.toLowerCase().indexOf(wanted);
    const fits = only.value === "all" || row.classList.contains("error") ||
      (only.value === "warning" && row.classList.contains("warning"));
    row.hidden = found < 0 || !fits;
    const place = row.lastChild;
    if (wanted === "" || found < 0 || text.toLowerCase().length !== text.length) {
      place.textContent = text;
    } else {
      place.replaceChildren(text.slice(0, found), element("mark", "", text.slice(found, found + wanted.length)),
        text.slice(found + wanted.length));
    }
  };

  const count = () => {
    const rows = list.children.length, hidden = list.querySelectorAll("li[hidden]").length;
    shown.textContent = (hidden ? rows - hidden + " of " : "") + rows + " items" +
      (waiting.length ? ", " + (waiting.length + missed) + " more waiting" : "");
    empty.hidden = rows > hidden;
    empty.textContent = rows ? "Nothing here matches." : "No lines yet.";
  };

  const isAtEnd = () => list.scrollHeight - list.scrollTop - list.clientHeight < 30;
  const toEnd = () => { list.scrollTop = list.scrollHeight; };

  const show = (items) => {
    const stays = isAtEnd();
    const rows = document.createDocumentFragment();
    for (const item of items.slice(-MOST)) {
      const row = element("li", classOf(item));
      const time = new Date(item.time / 1000);
      const clock = element("time", "", time.toTimeString().slice(0, 8) + "." + String(time.getMilliseconds()).padStart(3, "0"));
      clock.title = time.toISOString();
      const [name, pid] = item.origin || ["", 0];
      const who = element("span", "who", visible(name) || (pid ? "process " + pid : ""));
      who.title = visible(name) + (pid ? " (process " + pid + ")" : "");
      row.item = visible(item.text) + (item.cut ? " [" + item.cut + " bytes cut]" : "");
      row.append(clock, who, element("span", "text"));
      match(row);
      rows.append(row);
    }
    list.append(rows);
    while (list.children.length > MOST) list.firstChild.remove();
    if (stays) toEnd();
    count();
  };

  const take = (items) => {
    if (items.length === 0) return;
    next = items[items.length - 1].seq + 1;
    if (pause.getAttribute("aria-pressed") !== "true") return show(items);
    waiting = waiting.concat(items);
    missed += Math.max(0, waiting.length - MOST);
    waiting = waiting.slice(-MOST);
    count();
  };

  const say = (kind, words) => { state.className = kind; state.textContent = words; };

  const headers = () => {
    const all = { Accept: "text/event-stream" };
    if (token) all.Authorization = "Bearer " + token;
    return all;
  };

  const follow = async () => {
    const answer = await fetch(location.pathname + (next === null ? "" : "?since=" + next), { headers: headers(), cache: "no-store" });
    if (answer.status === 401) {
      ask.hidden = false;
      at("token").focus();
      say("lost", "a token is needed");
      return false;
    }
    if (!answer.ok) throw new Error("refused with " + answer.status);
    ask.hidden = true;
    say("live", "live");
    delay = 500;
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const { value, done } = await reader.read();
      if (done) throw new Error("the service has ended");
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      take(events.map((event) => event.split("\n").find((line) => line.startsWith("data: ")))
        .filter(Boolean).map((line) => JSON.parse(line.slice(6))));
    }
  };

  const run = async () => {
    for (;;) {
      try {
        if (!await follow()) return;
      } catch (error) {
        say("lost", "away: " + error.message + "; trying again");
        await new Promise((go) => setTimeout(go, delay));
        delay = Math.min(delay * 2, 10000);
      }
    }
  };

  const filter = () => {
    const stays = isAtEnd();
    Array.from(list.children).forEach(match);
    if (stays) toEnd();
    count();
  };
  search.addEventListener("input", filter);
  only.addEventListener("change", filter);
  pause.addEventListener("click", () => {
    const paused = pause.getAttribute("aria-pressed") !== "true";
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Go on" : "Pause";
    if (!paused) {
      const items = waiting;
      waiting = [];
      missed = 0;
      show(items);
    }
  });
  ask.addEventListener("submit", (event) => {
    event.preventDefault();
    token = at("token").value;
    at("token").value = "";
    run();
  });
  at("route").textContent = location.host + location.pathname;
  count();
  run();
})();
