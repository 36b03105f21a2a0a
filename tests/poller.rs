//! The poller: many sources, one wait.

mod support;

use std::time::{Duration, Instant};
use support::minute;
use syncq::Wait;
use syncq::channel::{Channel, Input, PipeChannel, Poller, SocketChannel, What};

const SOON: Wait = Wait::For(Duration::from_secs(20));

#[test]
fn an_empty_poller_waits_its_time_and_says_nothing() {
    let _watchdog = minute();
    let mut poller = Poller::new().unwrap();
    for millis in [0.3, 1.5, 30.0] {
        let wait = Duration::from_secs_f64(millis / 1000.0);
        let start = Instant::now();
        assert!(poller.poll(wait).unwrap().is_empty());
        assert!(start.elapsed() >= wait);
    }
}

#[test]
fn a_channel_with_data_says_so_and_its_end_is_told_once() {
    let _watchdog = minute();
    for (here, mut there) in [
        boxed(PipeChannel::pipe().unwrap()),
        boxed(SocketChannel::pair().unwrap()),
    ] {
        let mut poller = Poller::new().unwrap();
        let token = poller.register_boxed(here);
        assert!(poller.poll(Wait::Never).unwrap().is_empty());
        there.write(b"hello", Wait::Never).unwrap();
        let events = poller.poll(SOON).unwrap();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].source, token);
        assert!(matches!(&events[0].what, What::Data(data) if data == b"hello"));
        there.close();
        let events = poller.poll(SOON).unwrap();
        assert!(matches!(&events[..], [event] if event.source == token && matches!(event.what, What::End)));
        assert!(poller.poll(Duration::from_millis(20)).unwrap().is_empty());
        let mut here = poller.unregister(token).unwrap();
        assert!(poller.unregister(token).is_none());
        assert_eq!(here.try_read().unwrap(), Input::End);
    }
}

fn boxed<C: Channel>((one, other): (C, C)) -> (Box<dyn Channel>, Box<dyn Channel>) {
    (Box::new(one), Box::new(other))
}
