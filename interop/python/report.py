"""The output of every driver: one JSON line for each report of its client.

Usage of a driver: DRIVER URL [EVENT_TYPE...]
"""

import json
import sys

url = sys.argv[1]


def _say(observation):
    sys.stdout.write(json.dumps(observation) + "\n")
    sys.stdout.flush()


def opened():
    _say({"open": True})


def event(type, data, id):
    _say({"event": {"type": type, "data": data, "id": id}})


def failed(error):
    _say({"error": f"{type(error).__name__}: {error}"})


def closed():
    """The client will not come back."""
    _say({"closed": True})
