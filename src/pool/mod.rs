//! Nodes that send messages to each other, over TCP, TLS and a queue.
