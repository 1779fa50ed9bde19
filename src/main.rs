//! temporary
fn main() -> std::process::ExitCode {
    let options: Vec<String> = std::env::args().skip(1).collect();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match ottla::config::broker::BrokerConfig::from_text("", "", &options) {
        Ok(config) => ottla::production::run_broker(config),
        Err(error) => { eprintln!("{error}"); std::process::ExitCode::FAILURE }
    }
}
