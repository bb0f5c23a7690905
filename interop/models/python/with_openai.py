"""Reads a streamed answer with the official client of OpenAI's API. Prints what it got, and the error if there was one."""

import json
import os

from openai import OpenAI

client = OpenAI(base_url=os.environ["GATEWAY"] + "/v1", api_key="secret", max_retries=0)
report = {"text": "", "stop": None, "error": None}
try:
    stream = client.chat.completions.create(
        model="fake",
        stream=True,
        messages=[{"role": "user", "content": "Why?"}],
        extra_headers={"Idempotency-Key": os.environ["KEY"]},
    )
    for chunk in stream:
        report["text"] += chunk.choices[0].delta.content or ""
        report["stop"] = chunk.choices[0].finish_reason or report["stop"]
except Exception as error:
    report["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(report))
