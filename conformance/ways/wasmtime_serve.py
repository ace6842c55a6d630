"""A component that answers by HTTP, in wasmtime: python3 wasmtime_serve.py PORTCULLIS WASMTIME."""

import http.client
import json
import pathlib
import subprocess
import sys
import tempfile


class Server:
    """`wasmtime serve` with what `portcullis build --http` makes of a policy."""

    def __init__(self, portcullis, wasmtime, policy):
        with tempfile.TemporaryDirectory() as folder:
            component = pathlib.Path(folder, "server.wasm")
            subprocess.run([portcullis, "build", policy, "--http", "-o", component], check=True, capture_output=True)
            command = [wasmtime, "serve", "-S", "cli", "--addr", "127.0.0.1:0", component]
            self.child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            # It has read the component when it says where it listens.
            line = self.child.stderr.readline()
        if "http://" not in line:
            raise RuntimeError(f"wasmtime does not serve: {line}{self.child.stderr.read()}")
        self.address = line.split("http://")[1].strip().rstrip("/")

    def ask(self, context):
        connection = http.client.HTTPConnection(self.address, timeout=60)
        connection.request("POST", "/v1/evaluate", json.dumps(context))
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        return {"verdict": answer} if response.status == 200 else answer

    def end(self):
        self.child.terminate()
        self.child.wait()


def main(portcullis, wasmtime):
    server = None
    with tempfile.TemporaryDirectory() as folder:
        document = pathlib.Path(folder, "rules.json")
        for line in sys.stdin:
            question = json.loads(line)
            if "conformance" in question:
                said = {"name": "wasmtime serve"}
            elif "load" in question:
                if server:
                    server.end()
                document.write_text(json.dumps(question["rules"]), encoding="utf-8")
                server = Server(portcullis, wasmtime, question.get("component", document))
                said = {"loaded": True}
            else:
                said = server.ask(question["context"])
            print(json.dumps(said), flush=True)
    if server:
        server.end()


main(*sys.argv[1:])
