"""Keeps connections busy with one POST after the other, by requests or httpx, and never sends one twice.

Ends when its standard input does, and prints what became of its requests as JSON.
Arguments: library, address and port, number of connections.
"""

import json
import sys
import threading
import time

LIBRARY, TARGET, CONNECTIONS = sys.argv[1], sys.argv[2], int(sys.argv[3])
TIMEOUT = 10.0
report = {"requests": 0, "failed": 0, "wrong": 0, "closes": 0, "errors": []}
lock, stop = threading.Lock(), threading.Event()


def poster():
    """A connection of its own: a function from a body to the answer and its Connection header."""
    url = f"http://{TARGET}/"
    if LIBRARY == "requests":
        import requests

        session = requests.Session()
        session.trust_env = False
        post = lambda body: session.post(url, data=body, timeout=TIMEOUT)
    else:
        import httpx

        session = httpx.Client(timeout=TIMEOUT, trust_env=False)
        post = lambda body: session.post(url, content=body)

    def call(body):
        response = post(body)
        response.raise_for_status()
        return response.content, response.headers.get("connection", "")

    return call


def body(number):
    """Unlike any other; every tenth needs several segments, every hundredth overfills the buffers."""
    size = 300_000 if number % 100 == 0 else 20_000 if number % 10 == 0 else 64
    part = f"{number} HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nPOST /{number} HTTP/1.1\r\n".encode()
    return (part * (size // len(part) + 1))[:size]


def work(worker):
    call, number = poster(), worker * 7
    while not stop.is_set():
        number += 1
        sent = body(number)
        error, wrong, closes = None, False, False
        try:
            got, connection = call(sent)
            closes = "close" in connection.lower()
            if wrong := got != sent:
                error = f"a wrong body of {len(got)} bytes instead of {len(sent)}"
        except Exception as caught:
            error = f"{type(caught).__name__}: {caught}"
        with lock:
            report["requests"] += 1
            report["closes"] += closes
            report["failed"] += error is not None
            report["wrong"] += wrong
            if error and len(report["errors"]) < 5:
                report["errors"].append(error)
        if error:
            time.sleep(0.05)


workers = [threading.Thread(target=work, args=(n,)) for n in range(CONNECTIONS)]
for worker in workers:
    worker.start()
sys.stdin.read()
stop.set()
for worker in workers:
    worker.join()
print(json.dumps(report))
