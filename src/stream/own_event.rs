//! What the events that the crate itself sends have in common.

/// Implements the constructors of an event with the field `event: OwnEvent`, which is sent with this event type by default.
macro_rules! own_event {
    ($event:ident, $event_type:literal) => {
        impl $event {
            #[doc = concat!("Sends the ", $event_type, " event with this event type instead of `", $event_type, "`.")]
            ///
            /// An empty event type makes it a `message`, which pages listen to.
            ///
            /// This is for literals. For an event type that is read from a configuration, use
            /// [`try_named`](Self::try_named).
            ///
            /// # Panics
            ///
            /// If the event type contains a line end (CR or LF).
            #[must_use]
            #[track_caller]
            pub fn named(event_type: &'static str) -> Self {
                Self { event: OwnEvent::named(event_type) }
            }

            #[doc = concat!("Sends the ", $event_type, " event with an event type that is made at run time.")]
            ///
            /// # Errors
            ///
            /// [`EventError::EventType`] if the event type contains a line end (CR or LF).
            pub fn try_named(event_type: impl Into<String>) -> Result<Self, EventError> {
                Ok(Self { event: OwnEvent::try_named(event_type)? })
            }

            pub(crate) fn is_on(&self) -> bool {
                self.event.is_on()
            }
        }

        impl Default for $event {
            fn default() -> Self {
                Self { event: OwnEvent::of($event_type) }
            }
        }
    };
}

pub(super) use own_event;
