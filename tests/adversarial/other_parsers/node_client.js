// A client: asks for [[method, url], …] (on stdin) through the proxy, one after the other, and tells what came back.
"use strict";
const fs = require("node:fs");
const http = require("node:http");
const port = Number(process.argv[2]);
const asked = JSON.parse(fs.readFileSync(0, "utf8"));
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

function ask([method, url]) {
  return new Promise((resolve) => {
    const told = { status: null, body: "", complete: false };
    const request = http.request({ host: "127.0.0.1", port, method, path: url, agent, headers: { host: "x" } });
    request.on("response", (response) => {
      told.status = response.statusCode;
      response.on("data", (piece) => (told.body += piece.toString("hex")));
      response.on("error", () => {});
      response.on("close", () => resolve({ ...told, complete: response.complete }));
    });
    request.on("error", () => resolve(told));
    request.end();
  });
}

(async () => {
  for (const one of asked) {
    console.log(JSON.stringify(await ask(one)));
    await new Promise(setImmediate); // for the agent to take its socket back
  }
  agent.destroy();
})();
