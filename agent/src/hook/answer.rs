//! What a caller gets: small JSON, for people and scripts. The kubelet ignores it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

/// How a drain ended for the hook that waited for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The pod has drained.
    Drained,
    /// The pod, or its network namespace, is gone: nothing is left to wait for.
    Gone,
    /// The Pod object is gone or replaced: somebody forced the deletion.
    Forced,
    /// A container is restarted, the pod stays: nothing drains.
    Restart,
    /// The deadline came first.
    Deadline,
    /// A closed loop of clients, which no waiting ends.
    Busy,
    /// The request names no pod of this node.
    NoSuchPod,
}

impl Outcome {
    /// For scripts; the kubelet looks at none of them.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Drained | Self::Gone | Self::Forced | Self::Restart => StatusCode::OK,
            Self::Deadline | Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoSuchPod => StatusCode::NOT_FOUND,
        }
    }
}

/// What was still there when the hook was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Remained {
    /// TCP connections that count.
    pub open: u64,
    /// Of those, with a request without its complete answer.
    pub in_flight: u64,
    /// Of those in flight, how many only because nothing certain is known of them.
    pub doubt: u64,
    /// Clients gone without a word.
    pub vanished: u64,
    /// UDP flows.
    pub flows: u64,
}

/// What became of the last call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Told {
    /// Clients told to leave.
    pub told: u64,
    /// Of those, whose connections have ended.
    pub left: u64,
    /// Of those, who went on all the same.
    pub stayed: u64,
}

/// The answer to one hook.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// How the drain ended.
    pub outcome: Outcome,
    /// How long this hook was held.
    pub waited: Duration,
    /// What was left.
    pub remained: Remained,
    /// What became of the last call; `None` where nobody asked for it.
    pub last_call: Option<Told>,
    /// One sentence for people.
    pub why: String,
    /// The drain's own warnings; the server adds those of the request.
    pub warnings: Vec<String>,
    /// From the kernel's word of the last close to the decision, where nothing else was waited for.
    pub last_close_to_answer: Option<Duration>,
}

#[derive(Serialize)]
struct Body<'a> {
    outcome: Outcome,
    waited_seconds: f64,
    remained: Remained,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_call: Option<Told>,
    why: &'a str,
    warnings: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    last_close_to_answer_ms: Option<f64>,
}

#[derive(Serialize)]
struct RefusedBody<'a> {
    outcome: &'static str,
    why: &'a str,
}

/// Status and JSON, before HTTP's own lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// JSON, with a line end.
    pub body: Bytes,
}

impl Reply {
    /// 200 with a page of JSON.
    pub fn json<T: Serialize>(page: &T) -> Self {
        match serde_json::to_vec(page) {
            Ok(mut body) => {
                body.push(b'\n');
                Self { status: StatusCode::OK, body: body.into() }
            }
            Err(error) => Self::refused(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    /// A request that touches no drain.
    pub fn refused(status: StatusCode, why: &str) -> Self {
        Self { status, ..Self::json(&RefusedBody { outcome: "refused", why }) }
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // Else the kubelet keeps one connection open for every pod ever drained.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
        }
        response
    }
}

impl From<&Answer> for Reply {
    fn from(answer: &Answer) -> Self {
        let Answer { outcome, waited, remained, last_call, ref why, ref warnings, last_close_to_answer } =
            *answer;
        let waited_seconds = (waited.as_secs_f64() * 1e3).round() / 1e3;
        Self {
            status: outcome.status(),
            ..Self::json(&Body {
                outcome,
                waited_seconds,
                remained,
                last_call,
                why,
                warnings,
                last_close_to_answer_ms: last_close_to_answer.map(|d| (d.as_secs_f64() * 1e6).round() / 1e3),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_small_json() {
        let answer = Answer {
            outcome: Outcome::Busy,
            waited: Duration::from_micros(3_210_400),
            remained: Remained { open: 2, in_flight: 1, ..Remained::default() },
            last_call: Some(Told { told: 3, left: 1, stayed: 2 }),
            why: "nobody leaves".to_owned(),
            warnings: vec!["settle: …".to_owned()],
            last_close_to_answer: None,
        };
        let reply = Reply::from(&answer);
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
        insta::assert_snapshot!(String::from_utf8_lossy(&reply.body), @r#"{"outcome":"busy","waited_seconds":3.21,"remained":{"open":2,"in_flight":1,"doubt":0,"vanished":0,"flows":0},"last_call":{"told":3,"left":1,"stayed":2},"why":"nobody leaves","warnings":["settle: …"]}"#);
    }

    #[test]
    fn every_outcome_has_its_status() {
        for (outcome, status) in [
            (Outcome::Drained, 200),
            (Outcome::Gone, 200),
            (Outcome::Forced, 200),
            (Outcome::Restart, 200),
            (Outcome::Deadline, 503),
            (Outcome::Busy, 503),
            (Outcome::NoSuchPod, 404),
        ] {
            assert_eq!(outcome.status().as_u16(), status, "{outcome:?}");
        }
    }
}
