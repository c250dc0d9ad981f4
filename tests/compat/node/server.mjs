// Node's own http server, which sends every body back.
import http from "node:http";

http.createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => response.end(Buffer.concat(parts)));
}).listen(Number(process.argv[2]));
