"""The command line, asked question by question: python3 cli.py PORTCULLIS."""

import json
import pathlib
import subprocess
import sys
import tempfile


class Evaluate:
    """`portcullis evaluate` with a policy."""

    def __init__(self, portcullis, policy):
        # How busy the machine is does not matter.
        command = [portcullis, "evaluate", "--time-limit", "10000", policy]
        pipe = subprocess.PIPE
        self.child = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def ask(self, context):
        self.child.stdin.write(json.dumps(context) + "\n")
        self.child.stdin.flush()
        answer = json.loads(self.child.stdout.readline())
        return answer if "error" in answer else {"verdict": answer}

    def end(self):
        self.child.stdin.close()
        self.child.wait()


def main(portcullis):
    evaluate = None
    with tempfile.TemporaryDirectory() as folder:
        document = pathlib.Path(folder, "rules.json")
        for line in sys.stdin:
            question = json.loads(line)
            if "conformance" in question:
                said = {"name": "portcullis evaluate"}
            elif "load" in question:
                if evaluate:
                    evaluate.end()
                document.write_text(json.dumps(question["rules"]), encoding="utf-8")
                evaluate = Evaluate(portcullis, question.get("component", str(document)))
                # It has read the policy when it answers; until then the files stay.
                evaluate.ask({"direction": "inbound", "mail-from": "", "rcpt-to": "a@b.test"})
                said = {"loaded": True}
            else:
                said = evaluate.ask(question["context"])
            print(json.dumps(said), flush=True)
        if evaluate:
            evaluate.end()


main(sys.argv[1])
