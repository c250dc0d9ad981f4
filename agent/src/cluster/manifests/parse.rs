//! The text of a manifest in, its objects out.
//!
//! Each document is read twice: once for the kinds, which `kubectl` prints after the items of a List
//! (and after the endpoints of an EndpointSlice), then into the types of those kinds. So an error
//! keeps its line and column, and an unknown kind may have any content.

use serde::{Deserialize, de::DeserializeSeed};

use super::document::{Content, Document, Head};

/// Why a file is not understood, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(in crate::cluster) struct ParseError {
    /// Line and column, from 1.
    pub(super) at: Option<(u64, u64)>,
    pub(super) reason: String,
}

/// Reads YAML or JSON, whichever it is; one or more documents.
///
/// A text without any document is an error. `kubectl` prints a List without items when there is
/// nothing, so that an empty file is one that was truncated, or not written yet; it must not look like
/// "all pods are gone".
pub(in crate::cluster) fn parse(bytes: &[u8]) -> Result<Content, ParseError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|&&byte| byte != b'\n').count() + 1;
        ParseError { at: Some((line as u64, column as u64)), reason: "not UTF-8".into() }
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut content = Content::default();
    let documents =
        if text.trim_start().starts_with('{') { json(text, &mut content) } else { yaml(text, &mut content) }?;
    if documents == 0 {
        let reason = "it has no document: truncated, or not written yet (a List without items says that \
                      there is nothing)";
        return Err(ParseError { at: None, reason: reason.into() });
    }
    Ok(content)
}

/// JSON documents one after the other.
fn json(text: &str, content: &mut Content) -> Result<usize, ParseError> {
    let error = |error: serde_json::Error| ParseError {
        at: (error.line() > 0).then(|| (error.line() as u64, error.column().max(1) as u64)),
        reason: strip_location(&error.to_string()).to_owned(),
    };
    let mut kinds = serde_json::Deserializer::from_str(text);
    let mut objects = serde_json::Deserializer::from_str(text);
    let mut documents = 0;
    // `end` is an error as long as there is something left.
    while kinds.end().is_err() {
        let head = Head::deserialize(&mut kinds).map_err(error)?;
        Document { head: &head, content }.deserialize(&mut objects).map_err(error)?;
        documents += 1;
    }
    Ok(documents)
}

/// serde_json says the place again at the end of its message.
fn strip_location(message: &str) -> &str {
    message.rfind(" at line ").map_or(message, |at| &message[..at])
}

/// YAML documents between `---`.
fn yaml(text: &str, content: &mut Content) -> Result<usize, ParseError> {
    let mut documents = 0;
    for (first_line, document) in split(text) {
        if is_blank(document) {
            continue;
        }
        let error = |error: serde_saphyr::Error| {
            let error = error.without_snippet();
            let at = match error.location() {
                Some(place) => (place.line() + first_line, place.column()),
                None => (first_line + start(document), 1),
            };
            ParseError { at: Some(at), reason: plain(error) }
        };
        let head = serde_saphyr::with_deserializer_from_str_with_options(document, options(), |de| {
            Head::deserialize(de)
        })
        .map_err(error)?;
        serde_saphyr::with_deserializer_from_str_with_options(document, options(), |de| {
            Document { head: &head, content: &mut *content }.deserialize(de)
        })
        .map_err(error)?;
        documents += 1;
    }
    Ok(documents)
}

/// The message without the place, which is said elsewhere and counts from the document's start here.
pub(crate) fn plain(error: &serde_saphyr::Error) -> String {
    let message = error.render();
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    let first = message.lines().next().unwrap_or_default();
    let first = match first.find(": ") {
        Some(at) if first.starts_with("line ") => &first[at + 2..],
        _ => first,
    };
    strip_location(first).to_owned()
}

/// The size of the file is bounded already, and what it may hold by that; aliases stay bounded.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! { max_events: usize::MAX, max_nodes: usize::MAX },
    }
}

/// Documents with the number of lines before them. `---` at a line's start is never content in YAML
/// (1.2, section 9.1.2), so that no parser is needed to find it; documents are then parsed each on its own,
/// with its own kinds.
pub(crate) fn split(text: &str) -> Vec<(u64, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 0, 0);
    for (line, content) in text.split_inclusive('\n').enumerate() {
        let marker = content
            .strip_prefix("---")
            .filter(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if marker.is_some() && at > start {
            documents.push((start_line, &text[start..at]));
            (start, start_line) = (at, line as u64);
        }
        at += content.len();
    }
    documents.push((start_line, &text[start..]));
    documents
}

/// Nothing but comments, directives and markers.
pub(crate) fn is_blank(document: &str) -> bool {
    document.lines().all(is_blank_line)
}

/// The line, from 1, with which the content starts.
fn start(document: &str) -> u64 {
    document.lines().take_while(|line| is_blank_line(line)).count() as u64 + 1
}

fn is_blank_line(line: &str) -> bool {
    let line = line.strip_prefix("---").or_else(|| line.strip_prefix("...")).unwrap_or(line).trim();
    line.is_empty() || line.starts_with('#') || line.starts_with('%')
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::tests::{DUAL_STACK, LIST, SLICES_ALONE, STRANGER, TWO_SLICES};

    fn counts(text: &str) -> (usize, usize) {
        let content = parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error:?} in {text}"));
        (content.objects.len(), content.ignored)
    }

    #[test]
    fn what_kubectl_prints() {
        for (text, want) in [
            (LIST, (3, 0)),
            (DUAL_STACK, (4, 0)),
            (TWO_SLICES, (6, 0)),
            (STRANGER, (2, 0)),
            (SLICES_ALONE, (3, 0)),
            ("apiVersion: v1\nitems: []\nkind: List\nmetadata:\n  resourceVersion: \"\"\n", (0, 0)),
            ("apiVersion: v1\nitems: null\nkind: List\n", (0, 0)),
            (r#"{"apiVersion": "v1", "items": [], "kind": "List", "metadata": {}}"#, (0, 0)),
            // As the API answers: items of a typed list do not say their kind.
            (
                r#"{"kind": "PodList", "items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]}"#,
                (2, 0),
            ),
            (r#"{"kind": "ServiceList", "items": [{"metadata": {"name": "a"}}]}"#, (1, 0)),
            // Several documents, in JSON too.
            ("{\"kind\": \"Pod\", \"metadata\": {\"name\": \"a\"}}\n{\"kind\": \"Node\"}\n", (1, 1)),
            ("%YAML 1.2\n---\nkind: Pod\nmetadata: {name: a}\n...\n---\n# none\n---\nkind: Node\n", (1, 1)),
            ("---\r\nkind: Pod\r\nmetadata:\r\n  name: a\r\n", (1, 0)),
            ("\u{feff}kind: Pod\nmetadata: {name: a}", (1, 0)),
            // `---` within a text is none of ours.
            ("kind: Node\nmetadata:\n  annotations:\n    a: |\n      ---\n      kind: Pod\n", (0, 1)),
            ("kind: Node\n---x: 1\n", (0, 1)),
            // Others' kinds of the same name, and any content.
            ("apiVersion: serving.knative.dev/v1\nkind: Service\nspec: 5\n", (0, 1)),
            ("apiVersion: apps/v1\nkind: Deployment\nmetadata: [1, {a: b}]\n", (0, 1)),
            ("kind: List\nitems: [{kind: ConfigMap, data: 7}, {kind: Pod, metadata: {name: a}}]", (1, 1)),
        ] {
            assert_eq!(counts(text), want, "{text}");
        }
    }

    #[test]
    fn the_same_in_yaml_and_json() {
        for text in [LIST, DUAL_STACK, SLICES_ALONE] {
            let value: serde_json::Value = serde_saphyr::from_str(text).unwrap();
            let json = serde_json::to_string_pretty(&value).unwrap();
            assert_eq!(parse(json.as_bytes()), parse(text.as_bytes()));
        }
    }

    #[test]
    fn errors_say_where() {
        for (text, at, reason) in [
            ("", None, "no document"),
            (" \n# nothing\n---\n...\n", None, "no document"),
            ("kind: Pod\nmetadata:\n  name: [a]\n", Some((3, 9)), "expected string"),
            ("kind: Node\n---\n\nkind: Pod\nmetadata:\n  name: [a]\n", Some((6, 9)), "expected string"),
            ("kind: Node\n---\n\nfoo: bar\n", Some((4, 1)), "no kind"),
            ("kind: Pod\nmetadata: {name: a\n", Some((2, 11)), "unclosed"),
            ("kind: Pod\nspec: {}", Some((1, 1)), "no metadata.name"),
            ("kind: Pod\nmetadata: {name: a, deletionTimestamp: soon}", Some((2, 40)), ""),
            ("{\"kind\": \"Pod\",\n \"metadata\": {\"name\": 5}}", Some((2, 23)), "invalid type: integer"),
            ("{\"kind\": \"Pod\",\n", Some((2, 1)), "EOF"),
            ("{\"kind\": \"Node\"}\n{\"metadata\": 1}", None, "no kind"),
            ("[]", Some((1, 1)), ""),
        ] {
            let error = parse(text.as_bytes()).expect_err(text);
            assert_eq!(error.at, at, "{text:?}: {error:?}");
            assert!(error.reason.contains(reason), "{text:?}: {error:?}");
            assert!(!error.reason.contains('\n') && !error.reason.contains(" line "), "{error:?}");
        }
        let error = parse(b"kind: Pod\nme\xff").unwrap_err();
        assert_eq!((error.at, error.reason.as_str()), (Some((2, 3)), "not UTF-8"));
    }

    /// kubectl writes `kind: List` after the items: no beginning of such a text is a whole one.
    #[test]
    fn a_truncated_list_is_never_a_shorter_one() {
        let end = LIST.find("\nkind: List").unwrap();
        for at in (0..end).filter(|&at| LIST.is_char_boundary(at)).step_by(7) {
            assert!(parse(&LIST.as_bytes()[..at]).is_err(), "{at}");
        }
        let json =
            serde_json::to_string(&serde_saphyr::from_str::<serde_json::Value>(LIST).unwrap()).unwrap();
        for at in (0..json.len()).step_by(31) {
            assert!(parse(&json.as_bytes()[..at]).is_err(), "{at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_text_is_an_answer(text in "([a-z]{1,3}|kind: Pod|- |: |\\{|\\}|\\[|\\]|\"|&a |\\*a|!x|---|\\||>|\n|  ){0,60}") {
            let _ = parse(text.as_bytes());
        }

        /// Real manifests with a part cut out or doubled.
        #[test]
        fn any_damage_is_an_answer(from in 0..6_000usize, length in 0..200usize, double in any::<bool>()) {
            let cut = |at: usize| (0..=at.min(LIST.len())).rev().find(|&at| LIST.is_char_boundary(at)).unwrap();
            let (from, to) = (cut(from), cut(from + length));
            let text = if double {
                [&LIST[..to], &LIST[from..]].concat()
            } else {
                [&LIST[..from], &LIST[to..]].concat()
            };
            let _ = parse(text.as_bytes());
        }
    }
}
