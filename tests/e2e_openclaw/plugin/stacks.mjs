// Every client of HTTP and WebSocket that OpenClaw and its plugins use, none of them told of a proxy.
import http from "node:http";
import https from "node:https";
import { once } from "node:events";
import { setTimeout as pause } from "node:timers/promises";
import axios from "axios";
import { fetch as undiciFetch, request as undiciRequest } from "undici";
import NpmWebSocket from "ws";
import { fetchWithSsrFGuard } from "openclaw/plugin-sdk/ssrf-runtime";

const MESSAGES = 30;
const IDLE = 1_000; // milliseconds of a conversation in which nobody says anything

const posted = (body) => (body ? { method: "POST", body } : {});

const node = (agents) => async (url, body) => {
  const { request } = url.startsWith("https:") ? https : http;
  const asking = request(url, { method: body ? "POST" : "GET", ...agents(url) });
  asking.end(body);
  const [answer] = await once(asking, "response");
  let text = "";
  for await (const piece of answer) text += piece;
  return { status: answer.statusCode, text };
};

const fetched = async (answer) => ({ status: answer.status, text: await answer.text() });

const ownAgent = (url) => ({ agent: new (url.startsWith("https:") ? https : http).Agent({ keepAlive: true }) });

export const STACKS = {
  fetch: async (url, body) => fetched(await fetch(url, posted(body))),
  streamed: async (url, body) => {
    const stream = new Blob([body]).stream();
    return fetched(await fetch(url, { method: "POST", body: stream, duplex: "half" }));
  },
  node: node(() => ({})),
  agent: node(ownAgent),
  undici: async (url, body) => {
    const answer = await undiciRequest(url, posted(body));
    return { status: answer.statusCode, text: await answer.body.text() };
  },
  "undici-fetch": async (url, body) => fetched(await undiciFetch(url, posted(body))),
  axios: async (url, data) => {
    const method = data ? "POST" : "GET";
    const answer = await axios({ url, method, data, responseType: "text", validateStatus: () => true });
    return { status: answer.status, text: answer.data };
  },
  guarded: async (url, body) => {
    const { response, release } = await fetchWithSsrFGuard({ url, init: posted(body) });
    try {
      return await fetched(response);
    } finally {
      await release();
    }
  },
};

export const WEB_SOCKETS = { ws: NpmWebSocket, global: WebSocket };

// One message after the other, each once the one before was echoed, with a silence in the middle.
export const converse = async (Kind, url) => {
  const socket = new Kind(url);
  const opened = new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = (event) => reject(event.error ?? new Error(event.message));
  });
  await opened;
  const echoed = [];
  for (let count = 0; count < MESSAGES; count += 1) {
    if (count === MESSAGES / 2) await pause(IDLE);
    const heard = new Promise((resolve, reject) => {
      socket.onmessage = (event) => resolve(`${event.data}`);
      socket.onclose = () => reject(new Error("closed"));
    });
    socket.send(`message ${count}`);
    echoed.push(await heard);
  }
  const closed = new Promise((resolve) => {
    socket.onclose = resolve;
  });
  socket.close();
  await closed;
  return { echoed };
};
