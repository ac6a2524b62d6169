"""The only place that knows FFmpeg: from a clip's file to frames with exact times, and back to a file.

In the order in which a render meets them::

    info = probe.probe(target)                                          # ClipInfo, or a named error
    writer.check_encoder(settings.encoder, output, settings)            # before anything costs time
    with mux.staging_folder(output, overwrite) as folder, reader.ClipReader(info) as clip:
        index = clip.index                                              # every frame's time, by demuxing
        plan = timeline.plan_timeline(index.times, index.last_duration, voice.seconds, fit)
        encoded = folder / "video.mp4"
        with writer.VideoWriter(encoded, info, settings, plan.duration) as video:
            for frame in clip.frames_for(plan):                         # exactly len(plan) frames
                video.write(frame.rgb, frame.time)
        mux.mux(encoded, audio, target, output, plan.times, plan.duration, overwrite=overwrite)

Times are seconds as fractions from the clip's first frame, whole ticks of ``info.time_base``.
"""
