// What the Node clients share: the command line of __init__.py, and the lines of JSON that say what was seen.
"use strict";
const crypto = require("node:crypto");
const fs = require("node:fs");

const [proxy, authority, verb, ...urls] = process.argv.slice(2);
exports.proxy = new URL(proxy);
exports.ca = fs.readFileSync(authority);
exports.verb = verb;

exports.credentials = exports.proxy.username
  ? `Basic ${Buffer.from(decodeURIComponent(`${exports.proxy.username}:${exports.proxy.password}`)).toString("base64")}`
  : undefined;

exports.tell = async (status, reason, body) => {
  const digest = crypto.createHash("sha256");
  let text = "";
  for await (const piece of body) {
    digest.update(piece);
    if (text.length < 1000) text += Buffer.from(piece).toString("latin1").slice(0, 1000);
  }
  console.log(JSON.stringify({ status, reason, text, digest: digest.digest("hex") }));
};

// Ask for every URL in turn. An error's cause is where fetch says what happened.
exports.each = async (ask) => {
  for (const url of urls) {
    await ask(url).catch((error) => console.log(JSON.stringify({ error: `${error} ${error.cause ?? ""}` })));
  }
  process.exit(0); // with stdin still open, after an early answer
};
