//! Two programs that know nothing of each other but the name of a queue.
//!
//! ```text
//! cargo run --example two_services                  # starts both, the second one later
//! cargo run --example two_services -- --role requester --name demo     # or by hand, in two terminals,
//! cargo run --example two_services -- --role responder --name demo     # in any order
//! ```
//!
//! What it shows:
//!
//! * **No order of starting.** Both call `open_or_create`: whoever comes first makes the queue. The responder begins with
//!   the [oldest message](syncq::Start::Oldest) that is there, so it answers what was asked before it was started.
//! * **One queue for both directions.** Each side is a `Member`; a member does not hear itself.
//! * **Names are cleaned up.** A queue stays under its name until somebody unlinks it; this one is made such that its last
//!   member does so on leaving.
//!
//! Without arguments this program is a launcher: it makes up a name and runs both services as programs of their own (`exec`,
//! not `fork`). It also unlinks the name, in case a service did not live to do so.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use syncq::{Member, Queue, Start};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const HELP: &str = "\
Two services that find each other by the name of a queue.

Usage: two_services                                         start both
       two_services --role requester|responder --name NAME  be one of them
       two_services --help
";

const REQUESTS: u64 = 5;
/// How long a service waits for the other one before it gives up.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args[..] {
        [] => launch(),
        ["--role", "requester", "--name", name] | ["--name", name, "--role", "requester"] => requester(name),
        ["--role", "responder", "--name", name] | ["--name", name, "--role", "responder"] => responder(name),
        ["--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        _ => {
            eprint!("two_services: wrong arguments\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("two_services: {error}");
            ExitCode::FAILURE
        }
    }
}

// ---- The two services ----------------------------------------------------------------------------------------------------

/// Whoever comes first makes the queue; whoever leaves last takes its name away.
fn queue(name: &str) -> syncq::Result<Queue> {
    Queue::options().unlink_on_last_leave(true).open_or_create(name)
}

/// Asks for the squares of some numbers, and says goodbye.
fn requester(name: &str) -> Result<()> {
    let queue = queue(name)?;
    let mut me = queue.join("requester")?;
    for number in 1..=REQUESTS {
        me.append_pod("request", &number, PATIENCE)?;
        println!("requester: what is {number} squared?");
        let answer = wait_for_answer(&mut me)?;
        println!("requester: it is {answer}");
        if answer != number * number {
            return Err(format!("{answer} is wrong").into());
        }
    }
    me.append("goodbye", b"", PATIENCE)?;
    println!("requester: goodbye");
    Ok(())
}

fn wait_for_answer(me: &mut Member) -> Result<u64> {
    let message = me.pop(PATIENCE)?.ok_or("nobody answers")?;
    match message.kind() {
        "answer" => Ok(message.pod()?),
        kind => Err(format!("not an answer but a {kind} from {}", message.sender()).into()),
    }
}

/// Answers until somebody says goodbye.
fn responder(name: &str) -> Result<()> {
    let queue = queue(name)?;
    let mut me = queue.joining().sender("responder").start(Start::Oldest).member()?;
    println!("responder: at your service");
    loop {
        let message = me.pop(PATIENCE)?.ok_or("nobody asks")?;
        match message.kind() {
            "request" => {
                let number: u64 = message.pod()?;
                me.append_pod("answer", &(number * number), PATIENCE)?;
            }
            "goodbye" => {
                println!("responder: goodbye, {}", message.sender());
                return Ok(());
            }
            kind => println!("responder: what is a {kind}?"),
        }
    }
}

// ---- The launcher --------------------------------------------------------------------------------------------------------

fn launch() -> Result<()> {
    let name = Name(format!("two-services-{}", std::process::id()));
    let mut requester = Service::start("requester", &name)?;
    // Not before it has asked: the responder is to find a request that is older than itself.
    requester.show_line()?;
    println!("launcher: asked, and nobody there to answer; now the other one is started");
    let mut responder = Service::start("responder", &name)?;
    requester.finish()?;
    responder.finish()?;
    println!("launcher: both have ended");
    Ok(())
}

/// Takes the queue's name away in the end, however that comes about.
struct Name(String);

impl Drop for Name {
    fn drop(&mut self) {
        let _ = Queue::unlink_name(&self.0);
    }
}

/// A service in a process of its own, which does not outlive the launcher's interest.
struct Service {
    role: &'static str,
    child: Child,
    says: BufReader<ChildStdout>,
}

impl Service {
    fn start(role: &'static str, name: &Name) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--role", role, "--name", &name.0])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let says = BufReader::new(child.stdout.take().expect("it is piped"));
        Ok(Service { role, child, says })
    }

    /// Waits for a line of the service and prints it. `false`: there are no more.
    fn show_line(&mut self) -> Result<bool> {
        let mut line = String::new();
        self.says.read_line(&mut line)?;
        print!("{line}");
        Ok(!line.is_empty())
    }

    /// Prints the rest of what it says, and waits for its end, which its own timers bring about if nothing else does.
    fn finish(&mut self) -> Result<()> {
        while self.show_line()? {}
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the {} has failed: {status}", self.role).into()),
                None if Instant::now() > deadline => return Err(format!("the {} does not end", self.role).into()),
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
