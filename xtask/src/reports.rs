//! Cuts the host program's report stream.

use std::io::Read;

use wire::Report;

/// Longest frame that is kept: a report is a few KiB at the most, a stream without zero bytes is noise.
const FRAME_MAX_BYTES: usize = 1 << 20;

/// What came out of a report stream.
#[derive(Default, Debug)]
pub struct Reports {
    /// The reports, in their order.
    pub reports: Vec<Report>,
    /// How many frames, one cut off by the end included, were not reports.
    pub undecodable: usize,
}

impl Reports {
    /// Reads a stream to its end.
    pub fn read(mut stream: impl Read) -> Self {
        let mut splitter = Splitter::default();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            splitter.push(&buffer[..count]);
        }
        splitter.finish()
    }
}

/// Puts together what arrives in arbitrary pieces.
#[derive(Default)]
struct Splitter {
    frame: Vec<u8>,
    done: Reports,
}

impl Splitter {
    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.frame.len() < FRAME_MAX_BYTES {
                self.frame.push(byte);
            }
            if byte == 0 {
                match wire::decode_report(&mut self.frame) {
                    Ok(report) => self.done.reports.push(report),
                    Err(_) => self.done.undecodable += 1,
                }
                self.frame.clear();
            }
        }
    }

    fn finish(mut self) -> Reports {
        self.done.undecodable += usize::from(!self.frame.is_empty());
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::End;

    fn two() -> (Vec<Report>, Vec<u8>) {
        let reports = vec![
            Report::Booted { tsc: 0x0100_0000 },
            Report::Ended {
                name: "a".into(),
                end: End::Exit(-1),
                exits: 3,
                frames_lost: 0,
                pages: 0,
                heap_peak_bytes: 0,
                crash: None,
            },
        ];
        let bytes = reports.iter().flat_map(|report| wire::encode_report(report).unwrap()).collect();
        (reports, bytes)
    }

    #[test]
    fn reports_are_cut_wherever_the_pieces_end() {
        let (reports, bytes) = two();
        for cut in 0..=bytes.len() {
            let read = Reports::read(bytes[..cut].chain(&bytes[cut..]));
            assert_eq!(read.reports, reports);
            assert_eq!(read.undecodable, 0);
        }
    }

    #[test]
    fn noise_is_counted_and_passed_over() {
        let (reports, bytes) = two();
        let mut noisy = b"\x05noise\0".to_vec();
        noisy.extend(&bytes);
        noisy.extend(b"\x02cut");
        let read = Reports::read(&noisy[..]);
        assert_eq!(read.reports, reports);
        assert_eq!(read.undecodable, 2);
    }

    #[test]
    fn an_endless_frame_is_capped() {
        let mut splitter = Splitter::default();
        for _ in 0..3 {
            splitter.push(&[1; FRAME_MAX_BYTES]);
        }
        assert_eq!(splitter.frame.len(), FRAME_MAX_BYTES);
        assert_eq!(splitter.finish().undecodable, 1);
    }
}
