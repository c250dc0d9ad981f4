//! One document, YAML or JSON, into the objects that it holds: serde's half of [`super::parse`].

use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::cluster::{Kind, Object};

/// What a file holds.
#[derive(Debug, Default, PartialEq)]
pub(in crate::cluster) struct Content {
    pub(in crate::cluster) objects: Vec<Object>,
    /// Objects of other kinds.
    pub(super) ignored: usize,
}

/// What a document, or an item of a List, is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Head {
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    api_version: Option<String>,
    #[serde(default)]
    items: Items,
}

/// Heads of a List's items; `None` in a document whose `items` are none of our concern.
#[derive(Debug, Default)]
struct Items(Vec<Head>);

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<Vec<Head>>::deserialize(deserializer).map(|items| Self(items.unwrap_or_default()))
    }
}

impl Head {
    /// A List, and the kind of its items where they need not say it (`PodList`, as the API answers).
    fn list(&self) -> Option<Option<&'static str>> {
        match self.kind.as_deref()? {
            "List" => Some(None),
            "PodList" => Some(Some("Pod")),
            "EndpointSliceList" => Some(Some("EndpointSlice")),
            "ServiceList" => Some(Some("Service")),
            _ => None,
        }
    }

    /// Which object it is; `None` if of another kind. Knative has a `Service` of its own.
    fn object(&self, default: Option<&str>) -> Result<Option<Kind>, &'static str> {
        let kind =
            self.kind.as_deref().or(default).filter(|kind| !kind.is_empty()).ok_or("it has no kind")?;
        let is = |version: &str| self.api_version.as_deref().is_none_or(|said| said == version);
        Ok(match kind {
            "Pod" if is("v1") => Some(Kind::Pod),
            "Service" if is("v1") => Some(Kind::Service),
            "EndpointSlice" if is("discovery.k8s.io/v1") => Some(Kind::Slice),
            _ => None,
        })
    }
}

/// A whole document.
pub(super) struct Document<'c> {
    pub(super) head: &'c Head,
    pub(super) content: &'c mut Content,
}

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.head.list() {
            Some(default) => {
                let items = List { heads: &self.head.items.0, default, content: self.content };
                deserializer.deserialize_map(items)
            }
            None => Item { head: self.head, default: None, content: self.content }.deserialize(deserializer),
        }
    }
}

/// One object.
struct Item<'c> {
    head: &'c Head,
    default: Option<&'static str>,
    content: &'c mut Content,
}

impl<'de> DeserializeSeed<'de> for Item<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let (metadata, object) = match self.head.object(self.default).map_err(D::Error::custom)? {
            Some(Kind::Pod) => {
                let pod = Pod::deserialize(deserializer)?;
                (pod.metadata.name.is_some(), Object::Pod(Box::new(pod)))
            }
            Some(Kind::Slice) => {
                let slice = EndpointSlice::deserialize(deserializer)?;
                (slice.metadata.name.is_some(), Object::Slice(Box::new(slice)))
            }
            Some(Kind::Service) => {
                let service = Service::deserialize(deserializer)?;
                (service.metadata.name.is_some(), Object::Service(Box::new(service)))
            }
            None => {
                IgnoredAny::deserialize(deserializer)?;
                self.content.ignored += 1;
                return Ok(());
            }
        };
        if !metadata {
            return Err(D::Error::custom("it has no metadata.name"));
        }
        self.content.objects.push(object);
        Ok(())
    }
}

/// A List as a map, then its items as a sequence.
struct List<'c> {
    heads: &'c [Head],
    default: Option<&'static str>,
    content: &'c mut Content,
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a List")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" {
                map.next_value_seed(ListItems {
                    heads: self.heads,
                    default: self.default,
                    content: &mut *self.content,
                })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

struct ListItems<'c> {
    heads: &'c [Head],
    default: Option<&'static str>,
    content: &'c mut Content,
}

impl<'de> DeserializeSeed<'de> for ListItems<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for ListItems<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the items of a List")
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        for head in self.heads {
            let item = Item { head, default: self.default, content: &mut *self.content };
            if items.next_element_seed(item)?.is_none() {
                break;
            }
        }
        Ok(())
    }
}
