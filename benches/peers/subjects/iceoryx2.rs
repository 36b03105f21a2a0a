//! iceoryx2: publish and subscribe, without copies.

use super::read_all;
use crate::subject::{AnyLink, Link, Receiver, Sender, Shape, Waiting};
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use std::error::Error;
use std::hint::spin_loop;

pub struct Iceoryx2;

impl crate::subject::Subject for Iceoryx2 {
    fn name(&self) -> &'static str {
        "iceoryx2"
    }

    fn settings(&self) -> &'static str {
        "0.10; loan_slice_uninit, written in place, send, read in place; nothing dropped (RetryUntilDelivered), buffers for the ring's \
         messages; busy polling (with a yield every 100 looks where there are more parties than processors), asleep on an event service \
         beside, as its documentation shows"
    }

    fn cannot(&self, shape: &Shape) -> Option<&'static str> {
        if shape.batch > 1 {
            return Some("no batches");
        }
        (shape.waiting == Waiting::Sleep && !shape.is_round_trip).then_some("only its round trip is measured asleep")
    }

    fn open(&self, shape: &Shape, name: &str, folder: &str) -> Result<Box<dyn AnyLink>, Box<dyn Error>> {
        set_log_level(LogLevel::Fatal);
        let mut config = Config::default();
        config.global.prefix = FileName::new(format!("{name}_").as_bytes()).map_err(|error| format!("{error:?}"))?;
        let root = Path::new(folder.as_bytes()).map_err(|error| format!("{error:?}"))?;
        config.global.set_root_path(&root);
        // Everything is new and of this run alone.
        config.global.node.cleanup_dead_nodes_on_creation = false;
        config.global.node.cleanup_dead_nodes_on_destruction = false;
        config.global.service.cleanup_dead_nodes_on_open = false;
        config.global.creation_timeout = std::time::Duration::from_secs(10);
        Ok(Box::new(Services {
            config,
            shape: shape.clone(),
        }))
    }
}

struct Services {
    config: Config,
    shape: Shape,
}

impl Services {
    fn node(&self) -> Node<ipc::Service> {
        let builder = NodeBuilder::new().config(&self.config);
        let builder = builder.signal_handling_mode(SignalHandlingMode::Disabled);
        builder.create::<ipc::Service>().expect("a node")
    }

    fn parties(&self) -> usize {
        2 * (self.shape.writers + self.shape.readers) + 2
    }
}

macro_rules! messages {
    ($self:ident, $node:ident, $way:ident) => {
        $node
            .service_builder(&format!("way-{}", $way).as_str().try_into().expect("a name"))
            .publish_subscribe::<[u8]>()
            .enable_safe_overflow(false)
            .subscriber_max_buffer_size($self.shape.depth().min(16 << 10))
            .subscriber_max_borrowed_samples(2)
            .max_publishers($self.shape.writers)
            .max_subscribers($self.shape.readers)
            .max_nodes($self.parties())
            .open_or_create()
            .expect("a service")
    };
}

macro_rules! events {
    ($self:ident, $node:ident, $way:ident) => {
        $node
            .service_builder(&format!("bell-{}", $way).as_str().try_into().expect("a name"))
            .event()
            .max_nodes($self.parties())
            .open_or_create()
            .expect("an event service")
    };
}

struct Out {
    publisher: Publisher<ipc::Service, [u8], ()>,
    bell: Option<Notifier<ipc::Service>>,
    _node: Node<ipc::Service>,
}

struct In {
    subscriber: Subscriber<ipc::Service, [u8], ()>,
    bell: Option<Listener<ipc::Service>>,
    yields: bool,
    _node: Node<ipc::Service>,
}

impl Link for Services {
    type Sender = Out;
    type Receiver = In;

    fn sender(&self, way: usize) -> Out {
        let node = self.node();
        let publisher = messages!(self, node, way)
            .publisher_builder()
            .initial_max_slice_len(self.shape.len)
            .max_loaned_samples(2)
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()
            .expect("a publisher");
        let bell = (self.shape.waiting == Waiting::Sleep).then(|| {
            events!(self, node, way)
                .notifier_builder()
                .create()
                .expect("a notifier")
        });
        Out {
            publisher,
            bell,
            _node: node,
        }
    }

    fn receiver(&self, way: usize) -> In {
        let node = self.node();
        let subscriber = messages!(self, node, way)
            .subscriber_builder()
            .create()
            .expect("a subscriber");
        let bell = (self.shape.waiting == Waiting::Sleep).then(|| {
            events!(self, node, way)
                .listener_builder()
                .create()
                .expect("a listener")
        });
        In {
            subscriber,
            bell,
            yields: self.shape.waiting == Waiting::Usual,
            _node: node,
        }
    }
}

impl Sender for Out {
    fn send(&mut self, body: &[u8]) {
        let place = self.publisher.loan_slice_uninit(body.len()).expect("a loan");
        place.write_from_slice(body).send().expect("send");
        if let Some(bell) = &self.bell {
            bell.notify().expect("notify");
        }
    }
}

impl Receiver for In {
    fn receive(&mut self) {
        for round in 1u32.. {
            if let Some(sample) = self.subscriber.receive().expect("receive") {
                read_all(sample.payload());
                return;
            }
            match &self.bell {
                Some(bell) => drop(bell.blocking_wait(|_| {}).expect("wait")),
                None if self.yields && round.is_multiple_of(100) => std::thread::yield_now(),
                None => spin_loop(),
            }
        }
    }
}
