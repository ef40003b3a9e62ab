//! StopContainer beside dirty data: a container's end that syncs a whole file system waits for what others have written.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::{
    Options,
    client::Client,
    figure::{Figure, milliseconds},
};

/// Stops of each kind: each of the dirty ones writes hundreds of MiB.
const ROUNDS: usize = 10;

/// Stops containers on a clean disk and on a dirty one, in turn.
pub async fn measure(client: &mut Client, options: &Options) -> Result<Vec<Figure>> {
    let Some(dir) = options.dirty_dir.as_deref().filter(|_| options.dirty_mib > 0) else {
        return Ok(Vec::new());
    };
    let file = Dirt(dir.join(format!("dirty-{}", std::process::id())));
    let (mut clean, mut dirty) = (Vec::new(), Vec::new());
    let (pod, config) = client.run_pod().await?;
    for _ in 0..ROUNDS {
        let container = client.start(&pod, &config).await?;
        clean.push(stop(client, &container, dir, None).await?);
        let container = client.start(&pod, &config).await?;
        dirty.push(stop(client, &container, dir, Some((&file, options.dirty_mib))).await?);
    }
    client.end_pod(&pod).await?;
    let name = format!("StopContainer, {} MiB dirty", options.dirty_mib);
    Ok(Figure::step("StopContainer, clean disk", clean)
        .into_iter()
        .chain(Figure::step(name, dirty))
        .collect())
}

/// Milliseconds of StopContainer. Removes the container.
async fn stop(client: &mut Client, container: &str, dir: &Path, dirt: Option<(&Dirt, usize)>) -> Result<f64> {
    run(Command::new("sync").arg("--file-system").arg(dir)).await?;
    if let Some((file, mib)) = dirt {
        file.write(mib).await?;
    }
    let begin = Instant::now();
    client.stop(container).await?;
    let time = milliseconds(begin);
    if let Some((file, _)) = dirt {
        file.remove();
    }
    client.remove(container).await?;
    Ok(time)
}

/// A file of which nothing has reached the disk yet.
struct Dirt(PathBuf);

impl Dirt {
    /// Written by a process that has nothing to do with the runtime.
    async fn write(&self, mib: usize) -> Result<()> {
        let mut dd = Command::new("dd");
        dd.args(["if=/dev/zero", "bs=1M", "status=none"]).arg(format!("count={mib}"));
        dd.arg(format!("of={}", self.0.display()));
        run(&mut dd).await
    }

    /// Removes the file. Data that has not been written to the disk by now never is.
    fn remove(&self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Drop for Dirt {
    fn drop(&mut self) {
        self.remove();
    }
}

async fn run(command: &mut Command) -> Result<()> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let status = command.status().await.with_context(|| format!("run {program}"))?;
    ensure!(status.success(), "{program}: {status}");
    Ok(())
}
