-- Completes prompts by any server that speaks OpenAI's `POST /chat/completions`.
--
--   mobula sql --data-dir ./mine -f llm_batch.sql
--
-- README.md beside this file says how it is called. Needs nothing but Python.

CREATE OR REPLACE FUNCTION complete(prompt VARCHAR) RETURNS VARCHAR LANGUAGE python
WITH (
    max_in_flight = 64,
    timeout = '60s',
    retry_exceptions = 'Busy, ConnectionError, TimeoutError',
    max_retries = 6
) AS $$
import asyncio
import json
import os
import urllib.parse


class Busy(Exception):
    """The server wants to be asked again later, perhaps after so many seconds."""

    def __init__(self, text, headers):
        super().__init__(text)
        try:
            self.retry_after = float(headers.get("retry-after", ""))
        except ValueError:
            pass  # Then the engine waits longer each time.


class complete:
    def __init__(
        self,
        url="http://127.0.0.1:8000/v1",
        model="default",
        key_env="OPENAI_API_KEY",
        system=None,
        max_tokens=256,
        temperature=0.0,
    ):
        parts = urllib.parse.urlsplit(url)
        self.https = parts.scheme == "https"
        self.host, self.port = parts.hostname, parts.port or (443 if self.https else 80)
        self.path = parts.path.rstrip("/") + "/chat/completions"
        self.head = f"Host: {parts.netloc}\r\nContent-Type: application/json\r\n"
        # The key stays in the environment of the process: it is in no statement and no catalog.
        if os.environ.get(key_env):
            self.head += f"Authorization: Bearer {os.environ[key_env]}\r\n"
        self.asked = {"model": model, "max_tokens": max_tokens, "temperature": temperature}
        self.before = [{"role": "system", "content": system}] if system else []
        # Connections that nobody uses.
        self.free = []

    async def __call__(self, prompt):
        messages = [*self.before, {"role": "user", "content": prompt}]
        answer = await self.post({**self.asked, "messages": messages})
        return answer["choices"][0]["message"]["content"]

    async def post(self, body):
        status, headers, text = await self.exchange(json.dumps(body).encode())
        if status in (408, 409, 429) or status >= 500:
            raise Busy(f"{status}: {text[:300]}", headers)
        if status != 200:
            raise ValueError(f"{status}: {text[:300]}")
        return json.loads(text)

    async def exchange(self, data):
        """One request over a connection, which is kept if it can be used again."""
        reader, writer = await self.connection()
        keep = False
        try:
            head = f"POST {self.path} HTTP/1.1\r\n{self.head}Content-Length: {len(data)}\r\n\r\n"
            writer.write(head.encode() + data)
            await writer.drain()
            status, headers, text = await answer(reader)
            keep = headers.get("connection", "").lower() != "close"
            return status, headers, text
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise ConnectionError(f"{self.host}:{self.port} broke off its answer: {error}") from None
        finally:
            # Also when time is up: what is cut off half-way must not be used again.
            if keep:
                self.free.append((reader, writer))
            else:
                writer.close()

    async def connection(self):
        while self.free:
            reader, writer = self.free.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self.host, self.port, ssl=self.https or None)


async def answer(reader):
    """The status, the headers and the text of an answer in HTTP/1.1."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ", 2)[1])
    fields = (line.partition(":") for line in lines[1:] if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        data = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            data += await reader.readexactly(size)
            await reader.readexactly(2)
        while (await reader.readline()).strip():
            pass
    else:
        data = await reader.readexactly(int(headers.get("content-length", 0)))
    return status, headers, data.decode()
$$;
