// Node's built-in fetch, given undici's ProxyAgent, as programs do whose Node reads no proxy variables yet.
"use strict";
const { ProxyAgent } = require("undici");
const { Readable } = require("node:stream");
const { proxy, ca, verb, credentials, tell, each } = require("./telling.js");

const dispatcher = new ProxyAgent({ uri: proxy.origin, token: credentials, requestTls: { ca } });

each(async (url) => {
  const upload = verb === "upload" ? { method: "POST", body: Readable.toWeb(process.stdin), duplex: "half" } : {};
  const answer = await fetch(url, { dispatcher, ...upload });
  await tell(answer.status, answer.statusText, answer.body);
});
