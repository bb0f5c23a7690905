"""A server of the Python SDK with a tool that returns a secret. It checks `Host` and `Origin` by lists."""

import asyncio
import socket

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings

server = MCPServer("secret", log_level="ERROR")


@server.tool()
def secret() -> str:
    """Tells the secret."""
    return "the secret"


async def main() -> None:
    security = TransportSecuritySettings(
        allowed_hosts=["127.0.0.1:*", "localhost:*"], allowed_origins=["http://127.0.0.1:6274"]
    )
    app = server.streamable_http_app(stateless_http=True, transport_security=security)
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    await uvicorn.Server(uvicorn.Config(app, log_level="critical")).serve(sockets=[listener])


asyncio.run(main())
