// A server of the TypeScript SDK with a tool that returns a secret. It checks `Host` as the SDK's express application does
// for localhost, and `Origin` by a list.

import { createMcpExpressApp } from '@modelcontextprotocol/sdk/server/express.js';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';

const app = createMcpExpressApp();

app.all('/mcp', async (request, response) => {
    const server = new McpServer({ name: 'secret', version: '1.0.0' });
    server.registerTool('secret', { description: 'Tells the secret.' }, async () => ({
        content: [{ type: 'text', text: 'the secret' }],
    }));
    // There are no sessions, so each request gets a new server.
    const transport = new StreamableHTTPServerTransport({
        sessionIdGenerator: undefined,
        enableDnsRebindingProtection: true,
        allowedOrigins: ['http://127.0.0.1:6274'],
    });
    response.on('close', () => server.close());
    await server.connect(transport);
    await transport.handleRequest(request, response, request.body);
});

const listener = app.listen(0, '127.0.0.1', () => {
    console.log(`listening on http://127.0.0.1:${listener.address().port}`);
});
