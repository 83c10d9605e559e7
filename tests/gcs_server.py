"""The part of Google Cloud Storage's XML protocol that its client needs, over a dictionary.

It tests only the client's side. Run it as a script, with a port.
"""

from __future__ import annotations

import sys
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

objects: dict[str, tuple[int, bytes, str]] = {}  # path -> generation, content, time
uploads: dict[str, dict[int, bytes]] = {}
guard = threading.Lock()
BUCKET = "/memora"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", headers.get("Length", str(len(body))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def parts(self) -> tuple[str, dict[str, str]]:
        url = urlsplit(self.path)
        query = parse_qs(url.query, keep_blank_values=True)
        return unquote(url.path), {name: values[0] for name, values in query.items()}

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_PUT(self) -> None:
        path, query = self.parts()
        data = self.body()
        with guard:
            if "partNumber" in query:
                uploads[query["uploadId"]][int(query["partNumber"])] = data
                self.answer(200, ETag='"part"')
                return
            self.store(path, data)

    def store(self, path: str, data: bytes) -> None:
        known = objects.get(path)
        wanted = self.headers.get("x-goog-if-generation-match")
        if wanted is not None and int(wanted) != (known[0] if known else 0):
            self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        generation = max((one[0] for one in objects.values()), default=0) + 1
        objects[path] = (generation, data, formatdate(usegmt=True))
        self.answer(200, ETag=f'"{generation}"', x_goog_generation=str(generation))

    def do_POST(self) -> None:
        path, query = self.parts()
        data = self.body()
        del data
        with guard:
            if "uploads" in query:
                name = f"upload{len(uploads)}"
                uploads[name] = {}
                self.answer(
                    200,
                    f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId>"
                    "</InitiateMultipartUploadResult>".encode(),
                )
                return
            parts = uploads.pop(query["uploadId"])
            generation = len(objects) + 10**6
            objects[path] = (
                generation,
                b"".join(parts[number] for number in sorted(parts)),
                formatdate(usegmt=True),
            )
            self.answer(
                200,
                b"<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>",
            )

    def do_GET(self) -> None:
        path, query = self.parts()
        with guard:
            if path.rstrip("/") == BUCKET:
                self.list(query)
                return
            found = objects.get(path)
        if found is None:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        generation, data, at = found
        headers = {"ETag": f'"{generation}"', "Last-Modified": at}
        headers["x-goog-generation"] = str(generation)
        wanted = self.headers.get("Range")
        if wanted is None:
            self.answer(200, data, Length=str(len(data)), **headers)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(len(data) - int(last), 0)
        end = min(int(last) + 1 if first and last else len(data), len(data))
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        self.answer(206, data[start:end], **headers)

    do_HEAD = do_GET  # noqa: N815

    def list(self, query: dict[str, str]) -> None:
        prefix, after = query.get("prefix", ""), query.get("start-after", "")
        names = sorted(path[len(BUCKET) + 1 :] for path in objects)
        found = [name for name in names if name.startswith(prefix) and name > after]
        common: list[str] = []
        if delimiter := query.get("delimiter"):
            deeper = {
                prefix + name[len(prefix) :].partition(delimiter)[0] + delimiter
                for name in found
                if delimiter in name[len(prefix) :]
            }
            common = sorted(deeper)
            found = [name for name in found if delimiter not in name[len(prefix) :]]
        body = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(objects[f'{BUCKET}/{name}'][1])}</Size>"
            f'<LastModified>2026-01-01T00:00:00Z</LastModified><ETag>"x"</ETag></Contents>'
            for name in found
        )
        body += "".join(
            f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in common
        )
        self.answer(200, f"<ListBucketResult>{body}</ListBucketResult>".encode())

    def do_DELETE(self) -> None:
        with guard:
            known = objects.pop(self.parts()[0], None)
        self.answer(204 if known else 404)

    def log_message(self, *args: object) -> None:
        """Suppress the request log."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
