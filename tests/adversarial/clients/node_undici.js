// undici's request() and WebSocket with its ProxyAgent, which tunnels plain HTTP too.
"use strict";
const { ProxyAgent, WebSocket, request, setGlobalDispatcher } = require("undici");
const { once } = require("node:events");
const { proxy, ca, verb, credentials, tell, each } = require("./telling.js");

const dispatcher = new ProxyAgent({ uri: proxy.origin, token: credentials, requestTls: { ca } });
setGlobalDispatcher(dispatcher);

const webSocket = async (url) => {
  const socket = new WebSocket(url);
  await once(socket, "open");
  socket.send("hello");
  const [message] = await once(socket, "message");
  await tell(101, "", [Buffer.from(message.data)]);
};

const ask = async (url) => {
  const upload = verb === "upload" ? { method: "POST", body: process.stdin } : {};
  const answer = await request(url, { dispatcher, ...upload });
  await tell(answer.statusCode, "", answer.body);
};

each(verb === "websocket" ? webSocket : ask);
