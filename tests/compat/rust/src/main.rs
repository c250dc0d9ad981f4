//! Servers that send every body back, and a client that keeps connections busy.

mod client;
mod tonic_server;

use std::error::Error;

use axum::{Router, body::Bytes, routing::post};

pub type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Fallible<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["axum", port] => {
            let app = Router::new().route("/", post(|body: Bytes| async { body }));
            let listener = tokio::net::TcpListener::bind(format!("[::]:{port}")).await?;
            Ok(axum::serve(listener, app).await?)
        }
        ["tonic", port] => tonic_server::serve(format!("[::]:{port}").parse()?).await,
        ["client", target, connections] => client::run(target, connections.parse()?).await,
        _ => Err("usage: axum PORT | tonic PORT | client ADDRESS:PORT CONNECTIONS".into()),
    }
}
