// Reads a streamed answer with the official client of Anthropic's API. Prints what it got, and the error if there was one.

import Anthropic from '@anthropic-ai/sdk';

const client = new Anthropic({ baseURL: process.env.GATEWAY, apiKey: 'secret', maxRetries: 0 });
const report = { text: '', stop: null, error: null };
try {
    const question = { model: 'fake', max_tokens: 4096, messages: [{ role: 'user', content: 'Why?' }] };
    const stream = client.messages.stream(question, { headers: { 'Idempotency-Key': process.env.KEY } });
    stream.on('text', (text) => { report.text += text; });
    const message = await stream.finalMessage();
    report.stop = message.stop_reason;
} catch (error) {
    report.error = `${error.constructor.name}: ${error.message}`;
}
console.log(JSON.stringify(report));
