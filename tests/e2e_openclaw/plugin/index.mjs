// A plugin, so that what it does is done inside OpenClaw, after OpenClaw has routed its process through the proxy.
// `openclaw stacks` takes orders on stdin, a line of JSON each, and says on stdout what came of it: "answer {…}".
import { createInterface } from "node:readline";
import { STACKS, WEB_SOCKETS, converse } from "./stacks.mjs";

const UPLOAD = Buffer.alloc(2 ** 20, "0123456789abcdef");
const PATIENCE = 60_000; // milliseconds until a child is given up

const told = (error) => {
  const said = [];
  for (let each = error; each; each = each.cause) said.push(`${each}`, each.code ?? "");
  return { error: said.filter(Boolean).join(" | ") };
};

const obey = async (api, { stack, verb, url, command, cwd }) => {
  if (verb === "environment") return { environment: { ...process.env } };
  if (verb === "run") return api.runtime.system.runCommandWithTimeout(command, { timeoutMs: PATIENCE, cwd });
  if (verb === "converse") return converse(WEB_SOCKETS[stack], url);
  return STACKS[stack](url, verb === "post" ? UPLOAD : undefined);
};

const serve = async (api) => {
  for await (const line of createInterface({ input: process.stdin })) {
    const answer = await obey(api, JSON.parse(line)).catch(told);
    process.stdout.write(`answer ${JSON.stringify(answer)}\n`);
  }
};

export default {
  id: "stacks",
  name: "stacks",
  register(api) {
    api.registerCli(({ program }) => program.command("stacks").action(() => serve(api)), {
      commands: ["stacks"],
      descriptors: [{ name: "stacks", description: "Ask as told on stdin", hasSubcommands: false }],
    });
  },
};
