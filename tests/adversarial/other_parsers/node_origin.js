// An origin: notes every request that Node's parser made out, complete with its body, then answers it.
"use strict";
const fs = require("node:fs");
const http = require("node:http");
const [address, port, path] = process.argv.slice(2);
const log = fs.openSync(path, "a");

const server = http.createServer((request, response) => {
  const body = [];
  request.on("data", (piece) => body.push(piece));
  request.on("end", () => {
    const seen = { method: request.method, target: request.url, body: Buffer.concat(body).toString("hex") };
    fs.writeSync(log, JSON.stringify(seen) + "\n");
    response.end();
  });
});
server.keepAliveTimeout = server.headersTimeout = server.requestTimeout = 0;
server.on("clientError", (error, socket) => {
  socket.end("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
});
server.listen(Number(port), address);
