// OpenAI's own client for JavaScript at AgentCom's door: chats as told on standard input,
// prints what came. `tests/integration/test_openai_clients.py` runs it.
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: process.env.OPENAI_BASE_URL,
  apiKey: process.env.OPENAI_API_KEY,
  maxRetries: 0,
});
const messages = [{ role: "user", content: "hello there" }];
const weather = {
  type: "function",
  function: { name: "weather", parameters: { type: "object", properties: {} } },
};
const told = {};

told.models = (await client.models.list()).data.map((model) => model.id);

const { data, response } = await client.chat.completions.create({ model: "auto", messages }).withResponse();
told.whole = data.choices[0].message.content;
told.task = response.headers.get("x-agentcom-task");

told.streamed = "";
const stream = await client.chat.completions.create({
  model: "standard",
  messages,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  told.streamed += chunk.choices[0]?.delta?.content ?? "";
  told.usage = chunk.usage ?? told.usage;
}

const runner = client.chat.completions.stream({
  model: "auto",
  messages,
  tools: [weather],
});
const called = await runner.finalChatCompletion();
told.calls = called.choices[0].message.tool_calls ?? [];

try {
  await client.chat.completions.create({ model: "gpt-4o", messages });
} catch (error) {
  told.refused = [error.constructor.name, error.status, error.code, error.param];
}

await fetch(`${process.env.MODEL_SERVER}/simulated/faults`, {
  method: "POST",
  body: JSON.stringify([{ kind: "reset", after: 3 }]),
});
const broken = await client.chat.completions.create({
  model: "auto",
  messages: [{ role: "user", content: "break off" }],
  stream: true,
});
told.before = "";
try {
  for await (const chunk of broken) told.before += chunk.choices[0]?.delta?.content ?? "";
} catch (error) {
  told.broken = error.message;
}
process.stdout.write(JSON.stringify(told));
