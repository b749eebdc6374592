import { HttpErrorResponse, HttpHandlerFn, HttpInterceptorFn, HttpRequest } from '@angular/common/http';
import { inject } from '@angular/core';
import { IDEMPOTENT_METHODS, keyHeader, nextWait, UnrepeatableBody } from 'flask-idempotency';
import { catchError, defer, retry, throwError, timeout, TimeoutError, timer } from 'rxjs';

import { COURSE, keyOf } from './logical-request';
import { IDEMPOTENCY_KEY, IDEMPOTENCY_SETTINGS, WITHOUT_IDEMPOTENCY } from './settings';
import { judge } from './verdict';

/**
 * Gives each POST and PATCH one key, and sends it again under that key until it has its answer.
 *
 *     provideHttpClient(withInterceptors([idempotencyInterceptor]))
 *
 * An observable of `HttpClient` is one operation, however often it is subscribed to or retried. A key that the caller
 * put into the header, or into the context as `IDEMPOTENCY_KEY`, wins. Requests with an idempotent method are repeated
 * too, without a key. The time-out of one attempt starts anew with each sign of life, such as progress.
 *
 * After the last attempt the caller gets its answer, or an `HttpErrorResponse`, with status 0 for the network and for a
 * time-out. Fails with `UnrepeatableBody`, before anything is sent, for a stream.
 */
export const idempotencyInterceptor: HttpInterceptorFn = (request, next) => {
  const { policy, appliesTo } = inject(IDEMPOTENCY_SETTINGS);
  if (request.context.get(WITHOUT_IDEMPOTENCY) || !appliesTo(request)) return next(request);
  const given = request.headers.get(policy.header) ?? request.context.get(IDEMPOTENCY_KEY);
  const keyed = given !== null || policy.methods.includes(request.method);
  if (!keyed && !IDEMPOTENT_METHODS.has(request.method)) return next(request);
  if (request.body instanceof ReadableStream) {
    return keyed ? throwError(() => new UnrepeatableBody()) : next(request);
  }
  const key = given ?? keyHeader(keyOf(request), policy);
  const signed = keyed ? request.clone({ setHeaders: { [policy.header]: key } }) : request;

  return defer(() => {
    const sent = asItIsNow(signed);
    const course = request.context.get(COURSE);
    const began = performance.now();
    const elapsed = () => performance.now() - began;
    return defer(() => attempt(sent, next, Math.min(policy.timeout, policy.deadline - elapsed()))).pipe(
      retry({
        delay: (error: unknown, number) => {
          const { again, asked } = judge(error);
          const wait = again ? nextWait(policy, { number, elapsed: elapsed(), asked }) : null;
          if (wait === null) return throwError(() => error);
          course.inDoubt = true;
          return timer(wait);
        },
      }),
    );
  });
};

function attempt(request: HttpRequest<unknown>, next: HttpHandlerFn, patience: number) {
  return next(request).pipe(
    timeout({ each: Math.max(patience, 0) }),
    catchError((error: unknown) => {
      // As Angular's own time-out fails, so that callers need to know one kind of error.
      const late = { error, status: 0, url: request.urlWithParams };
      return throwError(() => (error instanceof TimeoutError ? new HttpErrorResponse(late) : error));
    }),
  );
}

/** The same request with a copy of a JSON body, so that a form that is edited between two attempts stays out of it. */
function asItIsNow(request: HttpRequest<unknown>): HttpRequest<unknown> {
  const { body } = request;
  const isJson = Array.isArray(body) || (isObject(body) && Object.getPrototypeOf(body) === Object.prototype);
  return isJson ? request.clone({ body: JSON.parse(JSON.stringify(body)) }) : request;
}

function isObject(body: unknown): body is object {
  return typeof body === 'object' && body !== null;
}
