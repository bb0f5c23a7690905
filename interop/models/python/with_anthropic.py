"""Reads a streamed answer with the official client of Anthropic's API. Prints what it got, and the error if there was one."""

import json
import os

from anthropic import Anthropic

client = Anthropic(base_url=os.environ["GATEWAY"], api_key="secret", max_retries=0)
report = {"text": "", "stop": None, "error": None}
try:
    with client.messages.stream(
        model="fake",
        max_tokens=4096,
        messages=[{"role": "user", "content": "Why?"}],
        extra_headers={"Idempotency-Key": os.environ["KEY"]},
    ) as stream:
        for text in stream.text_stream:
            report["text"] += text
        report["stop"] = stream.get_final_message().stop_reason
except Exception as error:
    report["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(report))
