"""A chat-completions server on this machine, and a model for it."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeServer:
    """Chat completions by a function of the prompt; ``requests`` holds path, headers and body of each."""

    def __init__(self, answer: Callable[[str], Any]) -> None:
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append((self.path, dict(self.headers), body))
                said = answer(body["messages"][0]["content"])
                status, raw = said if isinstance(said, tuple) else (200, completion(said))
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):  # whoever asked did not wait
                    self.wfile.write(raw.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def completion(content: str) -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})


def knows_sorry(prompt: str) -> str:
    """A model that says "apologies", and judges rightly what is one; with the fences that models like to put around JSON."""
    if "numbered" not in prompt:
        return '```json\n{"label": "apologies,\\n made politely"}\n```'
    numbered = json.loads(re.search(r"as JSON: (\{.*\})", prompt)[1])
    return f"Sure! {json.dumps({'active': [int(number) for number, text in numbered.items() if 'sorry' in text]})}"
