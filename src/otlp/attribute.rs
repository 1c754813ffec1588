//! Attributes of spans, metrics and of the broker itself.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;

const NAME: &str = env!("CARGO_PKG_NAME");
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// An attribute with a text.
pub fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

/// An attribute with a number.
pub fn number(key: &str, value: impl Into<i64>) -> KeyValue {
    attribute(key, Value::IntValue(value.into()))
}

/// An attribute with a list of one text.
pub fn list(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(Value::StringValue(value.to_owned())) };
    attribute(key, Value::ArrayValue(ArrayValue { values: vec![value] }))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// The broker, as the source of all that is exported. Its instance is another after each start.
pub fn resource() -> Resource {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let attributes = vec![
        text("service.name", NAME),
        text("service.version", VERSION),
        text("service.instance.id", &format!("{:032x}", fastrand::u128(..))),
        text("host.name", &host),
    ];
    Resource { attributes, ..Resource::default() }
}

/// The code that makes spans and metrics.
pub fn scope() -> InstrumentationScope {
    InstrumentationScope { name: NAME.to_owned(), version: VERSION.to_owned(), ..InstrumentationScope::default() }
}
