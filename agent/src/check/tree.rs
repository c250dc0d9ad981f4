//! A document as a tree that remembers its lines.
//!
//! In: YAML (of which JSON is a part), or an object of the API server. Out: values by path, and the line
//! of whatever a path names, so that a finding can point at it.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;
use serde_saphyr::Spanned;

/// A step from a node to one below it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Into a mapping.
    Key(String),
    /// Into a sequence, from 0.
    Index(usize),
}

/// Where something is in its object: `spec.template.spec.containers[0]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(pub Vec<Step>);

impl Path {
    /// Of keys alone, dotted.
    pub(super) fn of(keys: &str) -> Self {
        Self::default().down(keys)
    }

    /// Further down by dotted keys.
    pub(super) fn down(&self, keys: &str) -> Self {
        let mut path = self.clone();
        path.0.extend(keys.split('.').filter(|key| !key.is_empty()).map(|key| Step::Key(key.to_owned())));
        path
    }

    /// Further down by one key, whatever is in it.
    pub(super) fn key(&self, key: &str) -> Self {
        let mut path = self.clone();
        path.0.push(Step::Key(key.to_owned()));
        path
    }

    /// Further down into a sequence.
    pub(super) fn at(&self, index: usize) -> Self {
        let mut path = self.clone();
        path.0.push(Step::Index(index));
        path
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) if i == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

/// A value and the line on which it begins, from 1; 0 where there is no text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) line: u64,
    content: Content,
}

#[derive(Clone, Debug, PartialEq)]
enum Content {
    /// Anything that has nothing below it.
    Leaf(Value),
    List(Vec<Node>),
    /// Each with its key's line.
    Map(Vec<(String, u64, Node)>),
}

impl Node {
    pub(super) fn get(&self, step: &Step) -> Option<&Self> {
        match (&self.content, step) {
            (Content::Map(entries), Step::Key(key)) => {
                entries.iter().find(|(name, ..)| name == key).map(|(.., node)| node)
            }
            (Content::List(items), Step::Index(index)) => items.get(*index),
            _ => None,
        }
    }

    /// By dotted keys.
    pub(super) fn find(&self, keys: &str) -> Option<&Self> {
        self.follow(&Path::of(keys))
    }

    pub(super) fn follow(&self, path: &Path) -> Option<&Self> {
        path.0.iter().try_fold(self, |node, step| node.get(step))
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Leaf(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    pub(super) fn integer(&self) -> Option<i64> {
        match &self.content {
            Content::Leaf(value) => value.as_i64(),
            _ => None,
        }
    }

    /// The items of a sequence; none of anything else.
    pub(super) fn items(&self) -> &[Self] {
        match &self.content {
            Content::List(items) => items,
            _ => &[],
        }
    }

    /// The entries of a mapping; none of anything else.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &Self)> {
        let entries: &[_] = match &self.content {
            Content::Map(entries) => entries,
            _ => &[],
        };
        entries.iter().map(|(key, _, node)| (key.as_str(), node))
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.content, Content::Map(_))
    }

    /// The line of what a path names, or of the nearest thing above it that is there.
    pub(super) fn line_of(&self, path: &Path) -> u64 {
        let (mut node, mut line) = (self, self.line);
        for step in &path.0 {
            line = match (&node.content, step) {
                (Content::Map(entries), Step::Key(key)) => {
                    match entries.iter().find(|(name, ..)| name == key) {
                        Some((_, line, _)) => *line,
                        None => return line,
                    }
                }
                (Content::List(items), Step::Index(index)) => match items.get(*index) {
                    Some(item) => item.line,
                    None => return line,
                },
                _ => return line,
            };
            let Some(next) = node.get(step) else { return line };
            node = next;
        }
        line
    }

    pub(super) fn json(&self) -> Value {
        match &self.content {
            Content::Leaf(value) => value.clone(),
            Content::List(items) => Value::Array(items.iter().map(Self::json).collect()),
            Content::Map(entries) => {
                Value::Object(entries.iter().map(|(key, _, node)| (key.clone(), node.json())).collect())
            }
        }
    }
}

impl From<Value> for Node {
    fn from(value: Value) -> Self {
        let content = match value {
            Value::Array(items) => Content::List(items.into_iter().map(Self::from).collect()),
            Value::Object(entries) => {
                Content::Map(entries.into_iter().map(|(key, value)| (key, 0, Self::from(value))).collect())
            }
            leaf => Content::Leaf(leaf),
        };
        Self { line: 0, content }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Content>::deserialize(deserializer)?;
        Ok(Self { line: spanned.referenced.line(), content: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Contents)
    }
}

struct Contents;

impl<'de> Visitor<'de> for Contents {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Leaf(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Leaf(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Leaf(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Content, E> {
        Ok(Content::Leaf(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Leaf(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Content, E> {
        Ok(Content::Leaf(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Leaf(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Leaf(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        Content::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Content, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Content::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Content, A::Error> {
        let mut map = Vec::new();
        while let Some((key, node)) = entries.next_entry::<Spanned<String>, Node>()? {
            map.push((key.value, key.referenced.line(), node));
        }
        Ok(Content::Map(map))
    }
}
