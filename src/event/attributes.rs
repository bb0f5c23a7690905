//! The attributes that a backplane carries from node to node.

#[cfg(feature = "json")]
use std::any::TypeId;
use std::{fmt, sync::Arc};

use http::Extensions;

/// The types of attributes that are kept in the log of a backplane, each with its name there.
#[derive(Clone, Default)]
pub(crate) struct AttributeTypes(Vec<AttributeType>);

#[derive(Clone)]
struct AttributeType {
    name: Arc<str>,
    #[cfg(feature = "json")]
    type_id: TypeId,
    encode: Arc<EncodeAttribute>,
    decode: Arc<DecodeAttribute>,
}

/// Returns the encoded attribute, if the event has it.
type EncodeAttribute = dyn Fn(&Extensions) -> Result<Option<Vec<u8>>, String> + Send + Sync;
type DecodeAttribute = dyn Fn(&[u8], &mut Extensions) -> Result<(), String> + Send + Sync;

impl AttributeTypes {
    /// Adds a type under a name. The last type with the same name or the same Rust type counts.
    #[cfg(feature = "json")]
    pub(crate) fn add<T>(&mut self, name: &str)
    where
        T: serde::Serialize + serde::de::DeserializeOwned + Clone + Send + Sync + 'static,
    {
        let type_id = TypeId::of::<T>();
        self.0.retain(|other| *other.name != *name && other.type_id != type_id);
        self.0.push(AttributeType {
            name: name.into(),
            type_id,
            encode: Arc::new(|attributes| match attributes.get::<T>() {
                Some(value) => serde_json::to_vec(value).map(Some).map_err(|error| error.to_string()),
                None => Ok(None),
            }),
            decode: Arc::new(|bytes, attributes| {
                attributes.insert::<T>(serde_json::from_slice(bytes).map_err(|error| error.to_string())?);
                Ok(())
            }),
        });
    }

    /// Encodes all attributes of an event, each with its name.
    ///
    /// # Errors
    ///
    /// What is wrong, if an attribute has a type that is not known here. Without it, a filter on another node would give the event to
    /// clients that must not have it.
    pub(crate) fn encode(&self, attributes: &Extensions) -> Result<Vec<(&str, Vec<u8>)>, String> {
        let mut encoded = Vec::new();
        for known in &self.0 {
            if let Some(value) = (known.encode)(attributes).map_err(|error| format!("{:?}: {error}", known.name))? {
                encoded.push((&*known.name, value));
            }
        }
        match attributes.len().saturating_sub(encoded.len()) {
            0 => Ok(encoded),
            unknown => Err(format!("{unknown} of {} attributes have a type that is not registered", attributes.len())),
        }
    }

    /// Adds a decoded attribute.
    ///
    /// # Errors
    ///
    /// What is wrong, if the name is unknown or the value does not fit its type.
    pub(crate) fn decode(&self, name: &str, value: &[u8], attributes: &mut Extensions) -> Result<(), String> {
        let known = self.0.iter().find(|known| *known.name == *name);
        let known = known.ok_or_else(|| format!("the attribute {name:?} is not registered"))?;
        (known.decode)(value, attributes).map_err(|error| format!("the attribute {name:?}: {error}"))
    }
}

impl fmt::Debug for AttributeTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|known| &known.name)).finish()
    }
}
