"""Python's own http.server, one thread a connection, that sends every body back."""

import http.server
import sys


class Echo(http.server.BaseHTTPRequestHandler):
    # Without it every response would be the last of its connection.
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    # Its own are 5: where more connect at once the kernel answers with SYN cookies, and resets a large upload
    # whose first segment found no room.
    request_queue_size = 128


Server(("", int(sys.argv[1])), Echo).serve_forever()
