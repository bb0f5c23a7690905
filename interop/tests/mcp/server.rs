//! An MCP server with everything that the conformance suite asks for, on rmcp's streamable HTTP transport.
#![allow(
    deprecated,
    reason = "the suite asks for logging and sampling, which newer revisions of the protocol leave out"
)]

use std::{sync::Arc, time::Duration};

use http::request::Parts;
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestParams, CompleteResult,
        GetPromptRequestParams, GetPromptResponse, GetPromptResult, ListPromptsResult, ListResourceTemplatesResult,
        ListResourcesResult, ListToolsResult, PaginatedRequestParams, ReadResourceRequestParams, ReadResourceResponse,
        ReadResourceResult, ServerConfig, SetLevelRequestParams, SubscribeRequestParams, UnsubscribeRequestParams,
    },
    service::RequestContext,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{sync::Notify, time::sleep};

pub(crate) type Service = StreamableHttpService<Everything, LocalSessionManager>;

pub(crate) fn service(config: StreamableHttpServerConfig) -> Service {
    let sessions = Arc::new(LocalSessionManager::default());
    let handler = Everything { sessions: Arc::clone(&sessions) };
    StreamableHttpService::new(move || Ok(handler.clone()), sessions, config)
}

#[derive(Clone)]
pub(crate) struct Everything {
    sessions: Arc<LocalSessionManager>,
}

type Context = RequestContext<RoleServer>;

/// A pixel.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";
/// Silence.
const WAV: &str = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=";

/// The time between two notifications of one call, as the suite requires.
const PAUSE: Duration = Duration::from_millis(50);

impl ServerHandler for Everything {
    fn get_info(&self) -> ServerConfig {
        let capabilities = json!({
            "completions": {}, "logging": {}, "prompts": {}, "resources": { "subscribe": true }, "tools": {},
        });
        ServerConfig::new(typed(capabilities).expect("capabilities"))
    }

    async fn complete(&self, _: CompleteRequestParams, _: Context) -> Result<CompleteResult, ErrorData> {
        typed(json!({ "completion": { "values": ["test one", "test two"], "total": 2, "hasMore": false } }))
    }

    async fn set_level(&self, _: SetLevelRequestParams, _: Context) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn subscribe(&self, _: SubscribeRequestParams, _: Context) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn unsubscribe(&self, _: UnsubscribeRequestParams, _: Context) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListPromptsResult, ErrorData> {
        let argument = |name: &str| json!({ "name": name, "description": "An argument", "required": true });
        typed(json!({ "prompts": [
            { "name": "test_simple_prompt", "description": "Takes nothing" },
            {
                "name": "test_prompt_with_arguments",
                "description": "Takes two arguments",
                "arguments": [argument("arg1"), argument("arg2")],
            },
            {
                "name": "test_prompt_with_embedded_resource",
                "description": "Has a resource in it",
                "arguments": [argument("resourceUri")],
            },
            { "name": "test_prompt_with_image", "description": "Has an image in it" },
        ] }))
    }

    async fn get_prompt(&self, asked: GetPromptRequestParams, _: Context) -> Result<GetPromptResponse, ErrorData> {
        let arguments = Value::Object(asked.arguments.unwrap_or_default());
        let argument = |name: &str| arguments[name].as_str().unwrap_or_default().to_owned();
        let contents = match asked.name.as_str() {
            "test_simple_prompt" => vec![text("This is a simple prompt for testing.")],
            "test_prompt_with_arguments" => {
                let [one, two] = ["arg1", "arg2"].map(argument);
                vec![text(&format!("Prompt with arguments: arg1='{one}', arg2='{two}'"))]
            }
            "test_prompt_with_embedded_resource" => vec![
                resource(&argument("resourceUri"), "text/plain", "Embedded resource content for testing."),
                text("Please process the embedded resource above."),
            ],
            "test_prompt_with_image" => vec![image(), text("Please analyze the image above.")],
            name => return Err(ErrorData::invalid_params(format!("no prompt has the name {name:?}"), None)),
        };
        let messages: Vec<_> = contents.iter().map(|content| json!({ "role": "user", "content": content })).collect();
        typed::<GetPromptResult>(json!({ "messages": messages })).map(Into::into)
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListResourcesResult, ErrorData> {
        let resource = |uri: &str, mime_type: &str| json!({ "uri": uri, "name": uri, "description": "A resource", "mimeType": mime_type });
        typed(json!({ "resources": [
            resource("test://static-text", "text/plain"),
            resource("test://static-binary", "image/png"),
            resource("test://watched-resource", "text/plain"),
        ] }))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        typed(json!({ "resourceTemplates": [{
            "uriTemplate": "test://template/{id}/data", "name": "template", "mimeType": "application/json",
        }] }))
    }

    async fn read_resource(
        &self,
        asked: ReadResourceRequestParams,
        _: Context,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let uri = asked.uri.as_str();
        let templated = uri.strip_prefix("test://template/").and_then(|rest| rest.strip_suffix("/data"));
        let content = match (uri, templated) {
            (_, Some(id)) => {
                let data = json!({ "id": id, "templateTest": true, "data": format!("Data for ID: {id}") });
                json!({ "uri": uri, "mimeType": "application/json", "text": data.to_string() })
            }
            ("test://static-binary", _) => json!({ "uri": uri, "mimeType": "image/png", "blob": PNG }),
            ("test://static-text" | "test://watched-resource", _) => {
                json!({ "uri": uri, "mimeType": "text/plain", "text": "This is the content of the static text resource." })
            }
            _ => return Err(ErrorData::resource_not_found(format!("no resource is at {uri:?}"), None)),
        };
        typed::<ReadResourceResult>(json!({ "contents": [content] })).map(Into::into)
    }

    async fn list_tools(&self, _: Option<PaginatedRequestParams>, _: Context) -> Result<ListToolsResult, ErrorData> {
        let takes_nothing = [
            "test_simple_text",
            "test_image_content",
            "test_audio_content",
            "test_embedded_resource",
            "test_multiple_content_types",
            "test_tool_with_logging",
            "test_tool_with_progress",
            "test_error_handling",
            "test_elicitation_sep1034_defaults",
            "test_elicitation_sep1330_enums",
            "test_reconnection",
        ];
        let tool = |name: &str, schema: Value| json!({ "name": name, "description": "A tool", "inputSchema": schema });
        let string =
            |name: &str| json!({ "type": "object", "properties": { name: { "type": "string" } }, "required": [name] });
        let mut tools: Vec<_> =
            takes_nothing.iter().map(|name| tool(name, json!({ "type": "object", "properties": {} }))).collect();
        tools.push(tool("wait", json!({ "type": "object" })));
        tools.push(tool("test_sampling", string("prompt")));
        tools.push(tool("test_elicitation", string("message")));
        let with_definitions = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "$defs": { "address": {
                "type": "object",
                "properties": { "street": { "type": "string" }, "city": { "type": "string" } },
            } },
            "properties": { "name": { "type": "string" }, "address": { "$ref": "#/$defs/address" } },
            "additionalProperties": false,
        });
        tools.push(tool("json_schema_2020_12_tool", with_definitions));
        typed(json!({ "tools": tools }))
    }

    async fn call_tool(&self, asked: CallToolRequestParams, context: Context) -> Result<CallToolResponse, ErrorData> {
        let arguments = Value::Object(asked.arguments.unwrap_or_default());
        let content = match asked.name.as_ref() {
            "test_simple_text" => vec![text("This is a simple text response for testing.")],
            "test_image_content" => vec![image()],
            "test_audio_content" => vec![json!({ "type": "audio", "data": WAV, "mimeType": "audio/wav" })],
            "test_embedded_resource" => {
                vec![resource("test://embedded-resource", "text/plain", "This is an embedded resource content.")]
            }
            "test_multiple_content_types" => vec![
                text("Multiple content types test:"),
                image(),
                resource("test://mixed-content-resource", "application/json", r#"{"test":"data","value":123}"#),
            ],
            "test_tool_with_logging" => log(&context).await?,
            "test_tool_with_progress" => progress(&context).await?,
            "test_error_handling" => {
                let content = [text("This tool intentionally returns an error for testing")];
                return typed::<CallToolResult>(json!({ "content": content, "isError": true })).map(Into::into);
            }
            "test_sampling" => sample(&context, &arguments["prompt"]).await?,
            "test_elicitation" => {
                let properties = json!({ "username": { "type": "string" }, "email": { "type": "string" } });
                elicit(&context, &arguments["message"], properties, &["username", "email"]).await?
            }
            "test_elicitation_sep1034_defaults" => {
                let message = json!("Accept what is there by default?");
                elicit(&context, &message, properties_with_defaults(), &[]).await?
            }
            "test_elicitation_sep1330_enums" => {
                elicit(&context, &json!("Choose."), properties_with_choices(), &[]).await?
            }
            "test_reconnection" => {
                self.leave_first_stream(&context).await?;
                vec![text("The client came back for this.")]
            }
            // Not part of the suite.
            "wait" => {
                let parts = context.extensions.get::<Parts>();
                let may_end = parts.and_then(|parts| parts.extensions.get::<Arc<Notify>>());
                may_end.ok_or_else(|| ErrorData::invalid_params("nobody says when to end", None))?.notified().await;
                vec![text("It is time.")]
            }
            name => return Err(ErrorData::invalid_params(format!("no tool has the name {name:?}"), None)),
        };
        typed::<CallToolResult>(json!({ "content": content })).map(Into::into)
    }
}

impl Everything {
    /// Ends the response to a session's first call before its result, so that the client must resume.
    ///
    /// rmcp numbers the responses of a session from 0, and does not tell a tool its number. The suite calls this tool
    /// first.
    async fn leave_first_stream(&self, context: &Context) -> Result<(), ErrorData> {
        let id = context.extensions.get::<Parts>().and_then(|parts| parts.headers.get("mcp-session-id")?.to_str().ok());
        let session = self.sessions.sessions.read().await.get(id.unwrap_or_default()).cloned();
        let session = session.ok_or_else(|| ErrorData::invalid_request("this takes a session", None))?;
        session.close_sse_stream(0, Some(Duration::from_millis(500))).await.map_err(failed)?;
        // rmcp forgets a result that exists before the client has resumed. The suite's client resumes at once.
        sleep(Duration::from_secs(1)).await;
        Ok(())
    }
}

async fn log(context: &Context) -> Result<Vec<Value>, ErrorData> {
    for message in ["Tool execution started", "Tool processing data", "Tool execution completed"] {
        let message = typed(json!({ "level": "info", "data": message }))?;
        context.peer.notify_logging_message(message).await.map_err(failed)?;
        sleep(PAUSE).await;
    }
    Ok(vec![text("Three messages were logged.")])
}

async fn progress(context: &Context) -> Result<Vec<Value>, ErrorData> {
    let token = context.meta.get_progress_token();
    for done in [0, 50, 100] {
        if let Some(token) = &token {
            let progress = typed(json!({ "progressToken": token, "progress": done, "total": 100 }))?;
            context.peer.notify_progress(progress).await.map_err(failed)?;
        }
        sleep(PAUSE).await;
    }
    Ok(vec![text("It is done.")])
}

async fn sample(context: &Context, prompt: &Value) -> Result<Vec<Value>, ErrorData> {
    let message = json!({ "role": "user", "content": { "type": "text", "text": prompt } });
    let asked = typed(json!({ "messages": [message], "maxTokens": 100 }))?;
    let answer = context.peer.create_message(asked).await.map_err(failed)?;
    let answer = serde_json::to_value(answer).map_err(failed)?;
    Ok(vec![text(&format!("LLM response: {}", answer["content"]["text"]))])
}

async fn elicit(
    context: &Context,
    message: &Value,
    properties: Value,
    required: &[&str],
) -> Result<Vec<Value>, ErrorData> {
    let schema = json!({ "type": "object", "properties": properties, "required": required });
    let asked = typed(json!({ "mode": "form", "message": message, "requestedSchema": schema }))?;
    let answer = context.peer.create_elicitation(asked).await.map_err(failed)?;
    let answer = serde_json::to_value(answer).map_err(failed)?;
    Ok(vec![text(&format!("User response: action={}, content={}", answer["action"], answer["content"]))])
}

fn properties_with_defaults() -> Value {
    json!({
        "name": { "type": "string", "default": "John Doe" },
        "age": { "type": "integer", "default": 30 },
        "score": { "type": "number", "default": 95.5 },
        "status": { "type": "string", "enum": ["active", "inactive", "pending"], "default": "active" },
        "verified": { "type": "boolean", "default": true },
    })
}

fn properties_with_choices() -> Value {
    let titled = |value: &str| json!({ "const": value, "title": format!("The {value}") });
    json!({
        "untitledSingle": { "type": "string", "enum": ["option1", "option2", "option3"] },
        "titledSingle": { "type": "string", "oneOf": [titled("value1"), titled("value2"), titled("value3")] },
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {
            "type": "array",
            "items": { "type": "string", "enum": ["option1", "option2", "option3"] },
        },
        "titledMulti": {
            "type": "array",
            "items": { "anyOf": [titled("value1"), titled("value2"), titled("value3")] },
        },
    })
}

fn text(text: &str) -> Value {
    json!({ "type": "text", "text": text })
}

fn image() -> Value {
    json!({ "type": "image", "data": PNG, "mimeType": "image/png" })
}

fn resource(uri: &str, mime_type: &str, text: &str) -> Value {
    json!({ "type": "resource", "resource": { "uri": uri, "mimeType": mime_type, "text": text } })
}

/// Converts the protocol's JSON into an rmcp type.
fn typed<T: DeserializeOwned>(value: Value) -> Result<T, ErrorData> {
    serde_json::from_value(value).map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}
