import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.atomic.AtomicLong;

/**
 * Keeps connections busy with one POST after the other, by java.net.http, which sends no POST twice.
 * Ends when its standard input does, and prints what became of its requests as JSON.
 * Arguments: address and port, number of connections.
 */
final class Client {
    private static final AtomicLong numbers = new AtomicLong();
    private static final AtomicLong requests = new AtomicLong();
    private static final AtomicLong failed = new AtomicLong();
    private static final AtomicLong wrong = new AtomicLong();
    private static final AtomicLong closes = new AtomicLong();
    private static final List<String> errors = new ArrayList<>();
    private static volatile boolean stopping;

    public static void main(String[] args) throws Exception {
        URI uri = URI.create("http://" + args[0] + "/");
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        List<Thread> workers = new ArrayList<>();
        for (int n = 0; n < Integer.parseInt(args[1]); n++) {
            Thread worker = new Thread(() -> work(client, uri));
            worker.start();
            workers.add(worker);
        }
        System.in.readAllBytes();
        stopping = true;
        for (Thread worker : workers) {
            worker.join();
        }
        String said = String.join(",", errors.stream().map(Client::quoted).toList());
        System.out.printf("{\"requests\":%d,\"failed\":%d,\"wrong\":%d,\"closes\":%d,\"errors\":[%s]}%n",
                requests.get(), failed.get(), wrong.get(), closes.get(), said);
        System.exit(0);
    }

    private static void work(HttpClient client, URI uri) {
        while (!stopping) {
            byte[] sent = body(numbers.incrementAndGet());
            String error = null;
            try {
                HttpRequest request = HttpRequest.newBuilder(uri).timeout(Duration.ofSeconds(10))
                        .POST(HttpRequest.BodyPublishers.ofByteArray(sent)).build();
                HttpResponse<byte[]> response = client.send(request, HttpResponse.BodyHandlers.ofByteArray());
                if (response.headers().firstValue("connection").orElse("").contains("close")) {
                    closes.incrementAndGet();
                }
                if (response.statusCode() != 200) {
                    error = "status " + response.statusCode();
                } else if (!Arrays.equals(response.body(), sent)) {
                    wrong.incrementAndGet();
                    error = "a wrong body of " + response.body().length + " bytes instead of " + sent.length;
                }
            } catch (Exception caught) {
                error = caught.toString();
            }
            requests.incrementAndGet();
            if (error != null) {
                failed.incrementAndGet();
                note(error);
            }
        }
    }

    private static synchronized void note(String error) {
        if (errors.size() < 5) {
            errors.add(error);
        }
    }

    /** Unlike any other; every tenth needs several segments, every hundredth overfills the buffers. */
    private static byte[] body(long n) {
        int size = n % 100 == 0 ? 300_000 : n % 10 == 0 ? 20_000 : 64;
        String part = n + " HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nPOST /" + n + " HTTP/1.1\r\n";
        return Arrays.copyOf(part.repeat(size / part.length() + 1).getBytes(), size);
    }

    private static String quoted(String text) {
        return '"' + text.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", " ") + '"';
    }
}
