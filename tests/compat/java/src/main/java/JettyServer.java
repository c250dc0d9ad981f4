import java.nio.ByteBuffer;
import org.eclipse.jetty.io.Content;
import org.eclipse.jetty.server.Handler;
import org.eclipse.jetty.server.Request;
import org.eclipse.jetty.server.Response;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.util.Callback;
import org.eclipse.jetty.util.Promise;

/**
 * Jetty, which sends every body back; with a second argument while it still comes, so that its response
 * begins before the request ends.
 */
final class JettyServer {
    public static void main(String[] args) throws Exception {
        Server server = new Server(Integer.parseInt(args[0]));
        server.setHandler(new Handler.Abstract() {
            @Override
            public boolean handle(Request request, Response response, Callback callback) {
                if (args.length > 1) {
                    Content.copy(request, response, callback);
                } else {
                    Content.Source.asByteBuffer(request, Promise.from(
                            (ByteBuffer body) -> response.write(true, body, callback), callback::failed));
                }
                return true;
            }
        });
        server.start();
        server.join();
    }
}
