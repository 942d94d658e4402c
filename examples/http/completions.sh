#!/bin/sh
# A text as server-sent events: completions.sh [http://HOST:PORT] [PROMPT]
exec curl --no-buffer --silent --show-error --fail-with-body \
  --header "Authorization: Bearer ${OPENAI_API_KEY:-none}" --header "Content-Type: application/json" \
  --data "{\"prompt\": \"${2:-ROMEO:}\", \"max_tokens\": 200, \"seed\": 1, \"stream\": true}" \
  "${1:-http://127.0.0.1:8080}/v1/completions"
