"""A node of the real libchirp, told what to do by lines of JSON on its standard input, and answering each with one line.

Its only argument is a JSON object: port, flavour ("pool" or "queue"), behaviour of a pool's handler ("echo", "bounce" which is an echo
without more, "note", "hold", "slow", "raise"),
config (options of libchirp by name), workers.
"""
import hashlib
import json
import os
import sys
import threading
import time

import libchirp

settings = json.loads(sys.argv[1])
if settings["flavour"] == "queue":
    from libchirp.queue import Chirp, Config, Loop, Message
else:
    from libchirp.pool import Chirp, Config, Loop, Message

# What libchirp logs is its own; a test wants to hear of its answers only.
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def pattern(size, seed):
    """The bytes that the Rust side makes as well."""
    block = bytes((i * 7 + seed) % 251 for i in range(251 * 4))
    return (block * (size // len(block) + 1))[:size]


def described(message):
    return {
        "identity": message.identity.hex(),
        "serial": message.serial,
        "remote_identity": message.remote_identity.hex(),
        "address": message.address,
        "port": message.port,
        "header": len(message.header),
        "data": len(message.data),
        "digest": hashlib.sha256(message.header + b"|" + message.data).hexdigest(),
        "text": message.data[:40].decode("latin-1"),
    }


class Seen:
    def __init__(self):
        self.lock = threading.Condition()
        self.messages = []
        self.held = []

    def note(self, message):
        with self.lock:
            self.messages.append(described(message))
            self.lock.notify_all()


seen = Seen()

if settings["flavour"] == "pool":

    class Node(Chirp):
        def handler(self, message):
            behaviour = settings["behaviour"]
            if behaviour == "bounce":
                self.send(message).result()
                return
            seen.note(message)
            if behaviour in ("echo", "slow"):
                if behaviour == "slow":
                    time.sleep(settings["delay"])
                self.send(message).result()
            elif behaviour == "hold":
                with seen.lock:
                    seen.held.append(message)
            elif behaviour == "raise":
                raise ValueError("handler failed on purpose")

else:
    Node = Chirp


config = Config()
config.PORT = settings["port"]
for name, value in settings["config"].items():
    setattr(config, name, value)
loop = Loop()
try:
    keywords = {"max_workers": settings["workers"]} if settings["flavour"] == "pool" and settings.get("workers") else {}
    node = Node(loop, config, **keywords)
except OSError:
    print(json.dumps({"taken": True}), flush=True)
    loop.stop()
    os._exit(0)


def own_identity():
    return (node.identity() if callable(node.identity) else node.identity).hex()


def made(order):
    message = Message()
    message.address, message.port = order["address"], order["port"]
    message.data = order["text"].encode() if "text" in order else pattern(order.get("size", 0), order.get("seed", 0))
    message.header = pattern(order.get("header", 0), 1)
    return message


def asked(message):
    """As its request(), which sends first and then begins to wait: an answer that is there by then is lost. Here it begins to wait first."""
    future = libchirp.ChirpFuture(True)
    future._chirp, future._id = node, message.identity
    with node._lock:
        node._requests[future._id] = future
    is_waiting = threading.Event()

    def begin():
        libchirp.make_timer(future)
        is_waiting.set()

    loop.call_soon(begin)
    is_waiting.wait()
    future._send_fut = node.send(message)
    return future


pending = []


def limit(order):
    return order.get("wait", 20)


def obey(order):
    what = order["do"]
    if what == "send":
        message = made(order)
        node.send(message).result(limit(order))
        return {"identity": message.identity.hex()}
    if what == "send_many":
        futures = [node.send(made(dict(order, seed=i))) for i in range(order["count"])]
        return {"sent": sum(1 for future in futures if future.result(limit(order)) is not None)}
    if what == "start_sending":
        pending.extend(node.send(made(dict(order, seed=i))) for i in range(order["count"]))
        return {}
    if what == "sent":
        return {"done": sum(1 for future in pending if future.done())}
    if what == "request":
        message = made(order)
        start = time.monotonic()
        future = asked(message)
        answer = future.result(limit(order))
        return dict(described(answer), asked=message.identity.hex(), took=time.monotonic() - start)
    if what == "requests":
        # Its own way of asking is what is measured, where something is.
        ask = node.request if order.get("its_own") else asked
        took = []
        for i in range(order["count"]):
            message = made(dict(order, seed=i))
            start = time.monotonic()
            answer = ask(message).result(limit(order))
            took.append(time.monotonic() - start)
            if answer.data != pattern(order.get("size", 0), i) or answer.header != message.header:
                return {"error": "Wrong", "text": "another answer than what was asked, at %d" % i}
        took.sort()
        return {"answered": len(took), "median": took[len(took) // 2]}
    if what == "get":
        message = node.get(timeout=limit(order))
        said = described(message)
        if order.get("answer"):
            node.send(message).result(limit(order))
        elif order.get("hold"):
            seen.held.append(message)
        return said
    if what == "seen":
        with seen.lock:
            seen.lock.wait_for(lambda: len(seen.messages) >= order["count"], timeout=limit(order))
            return {"count": len(seen.messages), "messages": seen.messages[: order.get("show", 3)]}
    if what == "release":
        with seen.lock:
            held = seen.held[: order["count"]]
            del seen.held[: order["count"]]
        for message in held:
            message.release().result(limit(order))
        return {"released": len(held)}
    if what == "stop":
        node.stop()
        return {}
    raise KeyError(what)


print(json.dumps({"identity": own_identity()}), flush=True)
for line in sys.stdin:
    try:
        answer = obey(json.loads(line))
    except BaseException as error:
        answer = {"error": type(error).__name__, "text": str(error)}
    print(json.dumps(answer), flush=True)
# Its own end takes up to twice its timeout and fails where messages are held. The test has all it wanted.
os._exit(0)
