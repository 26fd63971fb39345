// node:http and node:https, which know no proxies, as OpenClaw routes them: absolute-form, or CONNECT and TLS in it.
"use strict";
const http = require("node:http");
const https = require("node:https");
const tls = require("node:tls");
const { once } = require("node:events");
const { proxy, ca, verb, credentials, tell, each } = require("./telling.js");

const keepAlive = process.argv.length > 6; // more than one URL
const agent = new http.Agent({ keepAlive });
const tunnels = new https.Agent({ keepAlive });
const toProxy = { host: proxy.hostname, port: proxy.port };
const authorization = credentials ? { "Proxy-Authorization": credentials } : {};

const tunnel = async (target) => {
  const connect = http.request({
    ...toProxy,
    method: "CONNECT",
    path: target,
    headers: { Host: target, "Proxy-Connection": "close", ...authorization },
  });
  connect.end();
  const [answer, socket] = await once(connect, "connect");
  if (answer.statusCode !== 200) throw new Error(`CONNECT: ${answer.statusCode} ${answer.statusMessage}`);
  return socket;
};

tunnels.createConnection = (options, done) => {
  const target = `${options.host.includes(":") ? `[${options.host}]` : options.host}:${options.port}`;
  tunnel(target).then((socket) => {
    const inner = tls.connect({ socket, ca, servername: options.servername, host: options.host });
    inner.once("secureConnect", () => done(null, inner));
    inner.once("error", done);
  }, done);
};

const request = (url, extra) => {
  const { protocol, hostname, port, host, pathname } = new URL(url);
  const headers = { Host: host, ...extra.headers };
  if (protocol === "https:" || protocol === "wss:") {
    const bare = hostname.replace(/^\[|\]$/g, "");
    return https.request({ ...extra, agent: tunnels, host: bare, port, path: pathname, headers });
  }
  const absolute = `http://${hostname}:${port || 80}${pathname}`; // node:http names the port even where it is 80
  const proxied = keepAlive ? authorization : { "Proxy-Connection": "close", ...authorization };
  return http.request({ ...extra, ...toProxy, agent, path: absolute, headers: { ...headers, ...proxied } });
};

const webSocket = async (url) => {
  const headers = { Connection: "Upgrade", Upgrade: "websocket", "Sec-WebSocket-Version": 13 };
  const asking = request(url, { headers: { ...headers, "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==" } });
  asking.end();
  const [answer, socket] = await once(asking, "upgrade");
  socket.write(Buffer.from("\x81\x85\0\0\0\0hello", "latin1"));
  const [frame] = await once(socket, "data");
  await tell(answer.statusCode, answer.statusMessage, [frame.subarray(2)]);
  socket.destroy();
};

const ask = (url) =>
  new Promise((resolve, reject) => {
    const asking = request(url, { method: verb === "upload" ? "POST" : "GET" });
    asking.once("response", (answer) => tell(answer.statusCode, answer.statusMessage, answer).then(resolve, reject));
    asking.on("error", reject);
    if (verb === "upload") process.stdin.pipe(asking);
    else asking.end();
  });

each(verb === "websocket" ? webSocket : ask);
