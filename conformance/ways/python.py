"""The package for Python, `portcullis_policy`."""

import json
import sys

from portcullis_policy import Engine, PolicyError


def answer(engine, policy, question):
    if "conformance" in question:
        return policy, {"name": "portcullis-policy (Python)", "version": "0.1.0"}
    if "load" in question:
        return engine.load(question.get("component", question["rules"])), {"loaded": True}
    return policy, {"verdict": policy.evaluate(question["context"])}


def main():
    # How busy the machine is does not matter.
    engine, policy = Engine(timeout=10), None
    for line in sys.stdin:
        try:
            policy, said = answer(engine, policy, json.loads(line))
        except PolicyError as error:
            said = {"error": str(error)}
        print(json.dumps(said), flush=True)


main()
