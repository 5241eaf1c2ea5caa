"""
Clients that send requests to an HTTPS server without pause, until SIGTERM, and
count the answers.  Each new answer is printed immediately.

    python examples/reload_client.py PORT
"""

from __future__ import annotations

import hashlib
import http.client
import signal
import ssl
import sys
import threading
from collections import Counter

port = int(sys.argv[1])
answers: Counter[tuple[str, str]] = Counter()
failures: list[str] = []
counting = threading.Lock()
stopped = threading.Event()
signal.signal(signal.SIGTERM, lambda signo, frame: stopped.set())
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE


def request(connection: http.client.HTTPSConnection) -> None:
    """
    Send one request.
    """
    connection.connect()
    assert isinstance(connection.sock, ssl.SSLSocket)
    certificate = connection.sock.getpeercert(binary_form=True)
    connection.request("GET", "/")
    text = connection.getresponse().read().decode()
    with counting:
        if text not in {each for each, _ in answers}:
            print(f'an answer: "{text}"', flush=True)
        answers[text, hashlib.sha256(certificate or b"").hexdigest()] += 1


def client() -> None:
    """
    Send requests until SIGTERM.
    """
    while not stopped.is_set():
        connection = http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=10, context=context
        )
        try:
            request(connection)
        except (OSError, http.client.HTTPException) as error:
            failures.append(repr(error))
        finally:
            connection.close()


threads = [threading.Thread(target=client) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
texts = sorted({text for text, _ in answers})
certificates = {digest for _, digest in answers}
print("answers:", " and ".join(texts), f"with {len(certificates)} certificates")
print("failures:", len(failures), *failures[:3])
