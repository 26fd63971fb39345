// Apple's push service, as far as a probe goes: HTTP/2, and a provider's token is never good.
// Arguments: address, port, certificate, key.
import { createSecureServer } from "node:http2";
import { readFileSync } from "node:fs";

const [host, port, cert, key] = process.argv.slice(2);
const server = createSecureServer({ cert: readFileSync(cert), key: readFileSync(key) });
server.on("stream", (stream) => {
  stream.respond({ ":status": 403, "apns-id": "6f6b532e-46a1-6ca0-8157-fd428ec64b60" });
  stream.end('{"reason":"InvalidProviderToken"}');
});
server.listen({ host, port }, () => console.log("ready"));
