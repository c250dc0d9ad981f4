// Keeps connections busy with one POST after the other, by undici, and never sends one twice.
// Ends when its standard input does, and prints what became of its requests as JSON.
// Arguments: address and port, number of connections.
import { Pool } from "undici";

const [target, connections] = [process.argv[2], Number(process.argv[3])];
const pool = new Pool(`http://${target}`, { connections, headersTimeout: 10_000, bodyTimeout: 10_000 });
const report = { requests: 0, failed: 0, wrong: 0, closes: 0, errors: [] };
let stopping = false;
let number = 0;

// Unlike any other; every tenth needs several segments, every hundredth overfills the buffers.
function body(n) {
  const size = n % 100 === 0 ? 300_000 : n % 10 === 0 ? 20_000 : 64;
  const part = `${n} HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nPOST /${n} HTTP/1.1\r\n`;
  return Buffer.from(part.repeat(Math.ceil(size / part.length)).slice(0, size));
}

async function work() {
  while (!stopping) {
    const sent = body(++number);
    let error = null;
    try {
      const answer = await pool.request({ path: "/", method: "POST", body: sent });
      const got = Buffer.from(await answer.body.arrayBuffer());
      if (/close/i.test(String(answer.headers.connection))) report.closes++;
      if (answer.statusCode !== 200) error = `status ${answer.statusCode}`;
      else if (!got.equals(sent)) {
        error = `a wrong body of ${got.length} bytes instead of ${sent.length}`;
        report.wrong++;
      }
    } catch (caught) {
      error = String(caught);
    }
    report.requests++;
    if (error) {
      report.failed++;
      if (report.errors.length < 5) report.errors.push(error);
      await new Promise((done) => setTimeout(done, 50));
    }
  }
}

process.stdin.resume().on("end", () => { stopping = true; });
await Promise.all(Array.from({ length: connections }, work));
await pool.close();
console.log(JSON.stringify(report));
