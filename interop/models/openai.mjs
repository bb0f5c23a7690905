// Reads a streamed answer with the official client of OpenAI's API. Prints what it got, and the error if there was one.

import OpenAI from 'openai';

const client = new OpenAI({ baseURL: `${process.env.GATEWAY}/v1`, apiKey: 'secret', maxRetries: 0 });
const report = { text: '', stop: null, error: null };
try {
    const question = { model: 'fake', stream: true, messages: [{ role: 'user', content: 'Why?' }] };
    const headers = { 'Idempotency-Key': process.env.KEY };
    for await (const chunk of await client.chat.completions.create(question, { headers })) {
        report.text += chunk.choices[0].delta.content ?? '';
        report.stop = chunk.choices[0].finish_reason ?? report.stop;
    }
} catch (error) {
    report.error = `${error.constructor.name}: ${error.message}`;
}
console.log(JSON.stringify(report));
