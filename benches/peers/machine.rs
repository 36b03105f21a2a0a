//! Where and how a session was run: without it, figures mean nothing.

use serde_json::{Value, json};
use std::process::Command;

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_string()
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string())
        .unwrap_or_default()
}

fn field(text: &str, name: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_once(':'))
        .map(|(_, value)| value.trim().to_string())
        .unwrap_or_default()
}

fn caches() -> String {
    let folder = "/sys/devices/system/cpu/cpu0/cache";
    let one = |index: usize| {
        let of = |what: &str| read(&format!("{folder}/index{index}/{what}"));
        let kind = of("type");
        (!kind.is_empty()).then(|| format!("L{} {} {}", of("level"), kind.to_lowercase(), of("size")))
    };
    (0..5).filter_map(one).collect::<Vec<_>>().join(", ")
}

/// Running tasks, over one, five and fifteen minutes. A session alone comes to about 2.
pub fn load() -> String {
    read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Everything about the machine and the build that a reader may ask for.
pub fn describe(command: &str) -> Value {
    let processors = read("/proc/cpuinfo");
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let dirty = if output("git", &["-C", here, "status", "--porcelain", "--untracked-files=no"]).is_empty() {
        ""
    } else {
        " and changes"
    };
    let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    json!({
        "processor": field(&processors, "model name"),
        "processors": std::thread::available_parallelism().map_or(1, usize::from),
        "caches": caches(),
        "virtual": if processors.contains("hypervisor") { "a virtual machine" } else { "bare metal, as far as can be told" },
        "frequency governor": if governor.is_empty() { "not shown by the system".into() } else { governor },
        "kernel": format!("Linux {}", read("/proc/sys/kernel/osrelease")),
        "load before": load(),
        "date": output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        "rustc": output("rustc", &["--version"]),
        "commit": format!("{}{dirty}", output("git", &["-C", here, "rev-parse", "--short", "HEAD"])),
        "command": command,
        "placement": "two ends: one pinned to processor 0, the other to 1; more ends: not pinned; one process: pinned to 0",
    })
}
