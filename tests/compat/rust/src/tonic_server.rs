//! gRPC's interop TestService by tonic, as far as the clients ask for it, written by hand: what a code
//! generator makes of `grpc/testing/test.proto` would need its compiler.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::Fallible;

#[derive(Clone, PartialEq, prost::Message)]
struct Payload {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(bytes = "vec", tag = "2")]
    body: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SimpleRequest {
    #[prost(message, optional, tag = "3")]
    payload: Option<Payload>,
}

/// SimpleResponse and StreamingOutputCallResponse alike.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(message, optional, tag = "1")]
    payload: Option<Payload>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResponseParameters {
    #[prost(int32, tag = "2")]
    interval_us: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StreamingOutputCallRequest {
    #[prost(message, repeated, tag = "2")]
    response_parameters: Vec<ResponseParameters>,
    #[prost(message, optional, tag = "3")]
    payload: Option<Payload>,
}

type Boxed<T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>;
type Parts = Pin<Box<dyn Stream<Item = Result<Answer, Status>> + Send>>;

struct UnaryCall;

impl UnaryService<SimpleRequest> for UnaryCall {
    type Response = Answer;
    type Future = Boxed<Response<Answer>>;

    fn call(&mut self, request: Request<SimpleRequest>) -> Self::Future {
        let payload = request.into_inner().payload;
        Box::pin(async { Ok(Response::new(Answer { payload })) })
    }
}

struct StreamingOutputCall;

impl ServerStreamingService<StreamingOutputCallRequest> for StreamingOutputCall {
    type Response = Answer;
    type ResponseStream = Parts;
    type Future = Boxed<Response<Parts>>;

    fn call(&mut self, request: Request<StreamingOutputCallRequest>) -> Self::Future {
        let StreamingOutputCallRequest { response_parameters, payload } = request.into_inner();
        let parts = tokio_stream::iter(response_parameters).then(move |part| {
            let payload = payload.clone();
            async move {
                tokio::time::sleep(Duration::from_micros(part.interval_us.unsigned_abs().into())).await;
                Ok(Answer { payload })
            }
        });
        Box::pin(async move { Ok(Response::new(Box::pin(parts) as Parts)) })
    }
}

#[derive(Clone)]
struct TestService;

impl NamedService for TestService {
    const NAME: &'static str = "grpc.testing.TestService";
}

impl tower_service::Service<http::Request<Body>> for TestService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/grpc.testing.TestService/UnaryCall" => {
                    Grpc::new(ProstCodec::default()).unary(UnaryCall, request).await
                }
                "/grpc.testing.TestService/StreamingOutputCall" => {
                    Grpc::new(ProstCodec::default()).server_streaming(StreamingOutputCall, request).await
                }
                _ => Status::unimplemented("not of this service").into_http(),
            })
        })
    }
}

pub async fn serve(address: SocketAddr) -> Fallible<()> {
    Ok(tonic::transport::Server::builder().add_service(TestService).serve(address).await?)
}
