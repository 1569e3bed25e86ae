// A client on the Rust SDK (tests/clients/README.md).
use rmcp::model::{CallToolRequestParams, ProtocolVersion};
use rmcp::service::{ClientLifecycleMode, ClientServiceExt, NotificationContext, RoleClient};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::ClientHandler;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone)]
struct Handler;

impl ClientHandler for Handler {
    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        println!("changed");
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let ended = Arc::new(AtomicBool::new(false));
    let at_end = ended.clone();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        at_end.store(true, Ordering::SeqCst);
    });
    let transport = StreamableHttpClientTransport::from_uri(arguments[1].clone());
    let lifecycle = match arguments.get(3).map(String::as_str) {
        Some("auto") => ClientLifecycleMode::Auto {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
            legacy_version: None,
        },
        _ => ClientLifecycleMode::Initialize,
    };
    let client = Handler.serve_with_lifecycle(transport, lifecycle).await?;
    client.list_all_tools().await?;
    let mut calls = 0;
    while !ended.load(Ordering::SeqCst) {
        let params = CallToolRequestParams::new(arguments[2].clone());
        match client.call_tool(params).await {
            Ok(result) if result.is_error == Some(true) => println!("error {:?}", result.content),
            Ok(_) => {}
            Err(error) => println!("error {error}"),
        }
        calls += 1;
        if calls == 1 {
            println!("ready {}", client.peer_info().map(|info| info.protocol_version.to_string()).unwrap_or_default());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    client.cancel().await?;
    println!("calls {calls}");
    Ok(())
}
